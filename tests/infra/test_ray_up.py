"""`ray up`: its file by Ray's own validator, and its commands as Ray's own updater gives them."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from infra_files import ENTER, INFRA, Shell, code_of, files, image

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


DOCKER = r"""
case "$1" in
inspect)
    if [[ "$*" == *Config.Env* ]]; then echo "$IMAGE_ENV"; fi
    if [ -e "$FOLDER/up" ] && [[ "$*" == *Running* ]]; then echo true; fi
    ;;
run) log "docker $*"; touch "$FOLDER/up" ;;
exec)
    while [ "$1" != rasterloom ]; do shift; done
    shift
    [ "$1" = printenv ] && echo /home/ray || log "$($ENTER_IMAGE "$@" 2> /dev/null)"
    ;;
*) true ;;
esac
"""
SSH = 'while [[ "$1" != *@* ]]; do shift; done; shift; exec bash -c "$*"'


@CONFIGS
def test_ray_up_starts_a_head_in_the_image(path, tmp_path):
    """Ray's own launcher, with stand-ins for ssh, rsync and docker; a container is `image`."""
    if Path(sys.prefix).is_relative_to("/tmp"):
        pytest.skip("an environment in /tmp is not to be seen where /tmp is another")
    config = yaml.safe_load(path.read_text())
    for name in ("available_node_types", "head_node_type", "max_workers", "upscaling_speed"):
        del config[name]  # which a list of machines does not have
    config["provider"] = {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}
    config["auth"]["ssh_private_key"] = str(tmp_path / "key")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for name in (".ray/auth_token", "key", "tmp/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("secret")
    nothing = dict.fromkeys(("rsync", "mkdir", "chown"), "true")
    shell = Shell(tmp_path, {"ssh": SSH, "docker": DOCKER, **nothing})
    dockerfile = INFRA / "docker" / "cpu.Dockerfile"
    enter = image(tmp_path, dockerfile)
    environment = code_of(dockerfile).rpartition("\nENV ")[2].splitlines()[0].split()
    exports = {
        **shell.env,
        "ENTER_IMAGE": str(tmp_path / "enter"),
        "IMAGE_ENV": json.dumps(environment),
    }
    (tmp_path / "enter").write_text(f'#!/bin/bash\nexec {shlex.join(enter)} "$@"\n')
    (tmp_path / "enter").chmod(0o755)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    for name in (".bash_profile", ".bashrc"):  # of the machine that ssh leads to
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "ray.scripts.scripts", "up", tmp_path / "config.yaml", "-y"]
    own = f"mount --bind {tmp_path} /mnt && mount -t tmpfs none /tmp && /bin/mkdir -p {tmp_path}"
    own += f" && mount --bind /mnt {tmp_path}"  # a /tmp where Ray leaves its folders
    done = subprocess.run(
        [*ENTER, f'{own} && exec "$@"', "sh", *command, "--no-config-cache"],
        env={**shell.env, "TMPDIR": str(tmp_path), "RAY_TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run, *rest = [line for line in shell.said() if line]
    assert ":/home/ray/.ray/auth_token " in run  # where Ray looks for it
    assert run.startswith("docker run") and "--privileged" not in run and "RAY_AUTH_MODE=token" in run
    assert rest[:1] == ["ray stop"] and rest[1].startswith("ray start --head --port=6379"), rest
    assert len(rest) == 2  # nothing is installed
