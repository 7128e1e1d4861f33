"""`ray up`: its file by Ray's own validator, and its commands as Ray's own updater gives them."""

import pytest
import yaml
from infra_files import files

CONFIGS = pytest.mark.parametrize("path", files("ray/*.yaml"), ids=lambda p: p.name)


def filled(path):
    from ray.autoscaler._private.util import fillout_defaults

    return fillout_defaults(yaml.safe_load(path.read_text()))


@CONFIGS
def test_ray_up(path):
    """By Ray's own validator, as `ray up` would; and what it does not look at."""
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load(path.read_text())
    validate_config(filled(path))
    types = config["available_node_types"]
    assert sum(kind.get("max_workers", 0) for kind in types.values()) <= config["max_workers"]
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    spot = [name for name, kind in types.items() if "InstanceMarketOptions" in kind["node_config"]]
    assert spot and all("spot" in name and types[name]["min_workers"] == 0 for name in spot)
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    cards = types["a100-efa"]["node_config"]["NetworkInterfaces"]
    assert [card["NetworkCardIndex"] for card in cards] == [0, 1, 2, 3]
    assert [card["DeviceIndex"] for card in cards] == [0, 1, 1, 1]
    assert all(card["InterfaceType"] == "efa" for card in cards)
    assert "SubnetId" not in types["a100-efa"]["node_config"]  # it belongs to the cards


@CONFIGS
def test_nothing_is_installed_on_a_node(path):
    config = filled(path)
    setups = [config[name] for name in ("setup_commands", "head_setup_commands", "worker_setup_commands")]
    setups += [kind.get("worker_setup_commands", []) for kind in config["available_node_types"].values()]
    assert not any(setups)


@CONFIGS
def test_no_node_is_privileged_and_efa_has_its_devices(path):
    text = path.read_text()
    assert "--privileged" not in text and "--cap-add" not in text
    types = yaml.safe_load(text)["available_node_types"]
    for name, kind in types.items():
        has_efa = "NetworkInterfaces" in kind["node_config"]
        options = kind.get("docker", {}).get("worker_run_options", [])
        assert ("--device=/dev/infiniband" in options) == has_efa, name
