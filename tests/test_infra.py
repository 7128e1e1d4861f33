"""Every file of infra/ is what its tool takes."""

import fnmatch
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import rasterloom
from rasterloom.recipe.loader import load_recipe

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line[:60]
)
# Who checks what, by pattern; a file that nobody checks fails.
CHECKED = {
    "docker/*.Dockerfile": "images",
    "kuberay/*.yaml": "rayjobs",
    "ray/*.yaml": "ray up",
    "skypilot/*.yaml": "sky",
    "slurm/*.sbatch": "bash",
    "s3/*.sh": "bash",
    "s3/*policy.json": "policies",
    "s3/lifecycle.json": "lifecycle",
    "s3/catalogs/*.yaml": "recipes",
    "grafana/*.json": "pipelines/progress/test_prometheus.py",
    "clip-retrieval/*": "its own README, with clip-retrieval's environment",
}


def files(pattern):
    return sorted(INFRA.glob(pattern))


def everything():
    paths = [path for path in INFRA.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path.relative_to(INFRA).as_posix() for path in paths]


def test_every_file_is_checked_and_says_when_to_use_it():
    for name in everything():
        assert any(fnmatch.fnmatch(name, pattern) for pattern in CHECKED), name
        text = (INFRA / name).read_text()
        if name.endswith((".yaml", ".sh", ".sbatch", ".Dockerfile")):
            first = [line for line in text.splitlines() if not line.startswith("#!")][:3]
            assert first[0].startswith("# When: ") and first[2].startswith("#"), name


@pytest.mark.parametrize("path", files("docker/*.Dockerfile"), ids=lambda p: p.name)
def test_images(path):
    """Pinned, in stages, not as root, with the package's own pins and nothing of the build left in."""
    text = path.read_text()
    code = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.M))
    words = [line.split() for line in code.splitlines() if line]
    from_lines = [line for line in words if line[0] == "FROM"]
    assert from_lines[-2][2:] == ["AS", "build"]
    assert from_lines[-1][1] == "python:3.11.14-slim-bookworm"  # Ray wants the same Python on all nodes
    for line in from_lines:
        assert re.search(r":.*\d+\.\d+|\$\{CUDA\}", line[1]) and "latest" not in line[1]
    last = code.rpartition("\nFROM ")[2]
    assert "\nUSER ray" in last and "COPY --from=build" in last and "pip install" not in last
    for line in code.splitlines():
        if "apt-get install" in line:
            assert "--no-install-recommends" in line and "rm -rf /var/lib/apt/lists/*" in line
        if re.search(r"pip install\b.*(torch|'\.)", line):
            assert "-c constraints.txt" in line
    taken = {name for line in words if line[0] == "COPY" and "--from=" not in line[1] for name in line[1:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert all((ROOT / name).exists() and f"!{name.removeprefix('./')}" in ignored for name in taken)
    assert f":{rasterloom.__version__}-" in text


def pods(job):
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group, group["template"]["spec"]


@pytest.mark.parametrize("path", files("kuberay/*.yaml"), ids=lambda p: p.name)
def test_rayjobs(path):
    job = yaml.safe_load(path.read_text())
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert cluster["rayVersion"] == PINS["ray"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    assert spec["shutdownAfterJobFinishes"] and spec["backoffLimit"] > 0
    assert "clusterSelector" not in spec
    # The driver is kept off the head, and off what may vanish; some group has room for it.
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    needs = json.loads(spec["entrypointResources"])
    assert needs and spec["entrypointNumCpus"] >= 1
    homes = []
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        has = json.loads(json.loads(group["rayStartParams"].get("resources", '"{}"')))
        if all(has.get(name, 0) >= amount for name, amount in needs.items()):
            homes.append(group)
    assert homes and all("spot" not in json.dumps(group["template"]) for group in homes)
    for group, pod in pods(job):
        assert pod["securityContext"]["runAsNonRoot"] and pod["serviceAccountName"] == "rasterloom"
        (container,) = pod["containers"]
        gpus = container["resources"]["limits"].get("nvidia.com/gpu")
        assert container["image"].endswith(f":{rasterloom.__version__}-{'gpu' if gpus else 'cpu'}")
        assert container["resources"]["requests"].get("nvidia.com/gpu") == gpus
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in pod.get("volumes", ())}
        if group in homes:  # the driver reads the recipe
            assert "recipe" in mounted
    command = spec["entrypoint"].split()
    assert command[:4] == ["python", "-m", "rasterloom", "run"] and command[4].startswith("/recipe/")


def test_the_training_nodes_are_whole_p4d():
    job = yaml.safe_load((INFRA / "kuberay" / "train.yaml").read_text())
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (limits["nvidia.com/gpu"], limits["vpc.amazonaws.com/efa"]) == ("8", "4")
    assert any(v.get("emptyDir", {}).get("medium") == "Memory" for v in group["template"]["spec"]["volumes"])


@pytest.mark.parametrize("path", files("ray/*.yaml"), ids=lambda p: p.name)
def test_ray_up(path):
    """By Ray's own validator, as `ray up` would; and what it does not look at."""
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    config = yaml.safe_load(path.read_text())
    validate_config(fillout_defaults(config))
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


@pytest.mark.parametrize("path", files("skypilot/*.yaml"), ids=lambda p: p.name)
def test_sky(path, tmp_path):
    task = yaml.safe_load(path.read_text())
    assert set(task) <= {"name", "num_nodes", "workdir", "resources", "envs", "secrets", "setup", "run"}
    assert task["resources"]["use_spot"] and task["resources"]["image_id"].startswith("docker:")
    assert task["resources"]["image_id"].endswith(f":{rasterloom.__version__}-gpu")
    script = tmp_path / "run.sh"
    script.write_text(task["run"])
    subprocess.run(["bash", "-n", script], check=True)
    assert {"RECIPE", "UNTIL"} == set(task["envs"])
    assert re.search(r"--port=(\d+)", task["run"]).group(1) != "6380"  # SkyPilot's own Ray
    assert task["secrets"] == {"RASTERLOOM_RAY_TOKEN": None}  # `sky` asks for it


@pytest.mark.parametrize("token", [None, "", "short"])
@pytest.mark.parametrize("path", files("skypilot/*.yaml"), ids=lambda p: p.name)
def test_sky_starts_nothing_without_a_token(path, token, tmp_path):
    ended, log = run_sky(path, tmp_path, token)
    assert ended.returncode == 2 and "--secret RASTERLOOM_RAY_TOKEN" in ended.stderr and not log


@pytest.mark.parametrize("path", files("skypilot/*.yaml"), ids=lambda p: p.name)
def test_sky_starts_ray_with_the_token_that_it_was_given(path, tmp_path):
    ended, log = run_sky(path, tmp_path, "a" * 64)
    assert ended.returncode == 0, ended.stderr
    assert f"ray start --head mode=token token={'a' * 64}" in log and f"python -m token={'a' * 64}" in log


def run_sky(path, folder, token):
    """Run the task's script as its first node does, with a stand-in for each command; what those said."""
    log, tools = folder / "log", folder / "bin"
    tools.mkdir()
    for name, shown in {"ray": "$1 $2 mode=$RAY_AUTH_MODE", "python": "$1"}.items():
        body = f'echo "{name} {shown} token=$RAY_AUTH_TOKEN" >> "$LOG"'
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    env = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "LOG": str(log),
        "HOME": str(folder),
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": "0",
        "RECIPE": "recipe.yaml",
        "UNTIL": "tokens",
        **({} if token is None else {"RASTERLOOM_RAY_TOKEN": token}),
    }
    task = yaml.safe_load(path.read_text())
    ended = subprocess.run(["bash", "-c", task["run"]], env=env, capture_output=True, text=True, timeout=60)
    return ended, log.read_text() if log.exists() else ""


@pytest.mark.parametrize("path", files("slurm/*.sbatch") + files("s3/*.sh"), ids=lambda p: p.name)
def test_bash(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK) and "set -euo pipefail" in path.read_text()


def test_the_slurm_script_runs_a_recipe_on_its_nodes(tmp_path):
    """With a stand-in for each command of Slurm: two nodes, of which both are this machine."""
    log = tmp_path / "log"
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in {
        "scontrol": '[ "$1" = show ] && printf "one\\ntwo\\n" || echo "scontrol $*" >> "$LOG"',
        "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "ray": 'echo "ray $* mode=$RAY_AUTH_MODE token=$(wc -c < "$RAY_AUTH_TOKEN_PATH")" >> "$LOG"',
        "python": 'echo "python $* at $RAY_ADDRESS" >> "$LOG"; [ -z "${LONG:-}" ] || exec sleep 60',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    env = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "LOG": str(log),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_GPUS_ON_NODE": "8",
    }
    script = INFRA / "slurm" / "rasterloom.sbatch"
    subprocess.run(
        [script, "recipe.yaml", "--until", "tokens"], env=env, cwd=tmp_path, check=True, timeout=120
    )
    said = log.read_text()
    assert "ray start --head --port=20077" in said and "ray start --address=one:20077" in said
    assert said.count("--num-cpus 16 --num-gpus 8") == 2 and "mode=token token=64" in said
    assert "python -m rasterloom run recipe.yaml --until tokens at one:20077" in said
    assert not list(tmp_path.glob(".rasterloom-*"))  # the token goes with the job
    assert "requeue" not in said

    log.unlink()
    process = subprocess.Popen([script, "recipe.yaml"], env={**env, "LONG": "1"}, cwd=tmp_path)
    while not log.exists() or "python" not in log.read_text():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) != 0
    assert "scontrol requeue 77" in log.read_text()
    assert subprocess.run([script], env=env, cwd=tmp_path, capture_output=True).returncode == 2


def test_policies():
    """The role may do what the code does with S3, on its prefix and nowhere else."""
    policy = json.loads((INFRA / "s3" / "iam-policy.json").read_text())
    allowed = {}
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        for action in statement["Action"]:
            allowed[action] = statement
    assert set(allowed) == {
        "s3:ListBucket",
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
        "s3:ListBucketMultipartUploads",
    }
    for action, statement in allowed.items():
        if action == "s3:ListBucket":
            assert statement["Condition"]["StringLike"]["s3:prefix"] == ["PREFIX", "PREFIX/*"]
        elif action == "s3:ListBucketMultipartUploads":  # S3 has no condition on the prefix for it
            assert statement["Resource"].endswith(":::BUCKET")
        else:
            assert statement["Resource"].endswith(":::BUCKET/PREFIX/*")
    bucket = json.loads((INFRA / "s3" / "bucket-policy.json").read_text())
    assert all(statement["Effect"] == "Deny" for statement in bucket["Statement"])
    assert bucket["Statement"][0]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_lifecycle():
    """Nothing that a table is made of expires: data files lie in staging/, whatever its name."""
    rules = json.loads((INFRA / "s3" / "lifecycle.json").read_text())["Rules"]
    assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)
    for rule in rules:
        assert rule["Status"] == "Enabled" and "Expiration" not in rule
        assert {t["StorageClass"] for t in rule.get("Transitions", ())} <= {"INTELLIGENT_TIERING"}


@pytest.mark.parametrize("path", files("s3/catalogs/*.yaml"), ids=lambda p: p.name)
def test_recipes(path):
    recipe = load_recipe(path)
    assert recipe.workspace == "s3://BUCKET/PREFIX"
    assert recipe.catalog["warehouse"].startswith(f"{recipe.workspace}/")
    assert not {"credential", "token"} & set(recipe.catalog) and "@" not in recipe.catalog.get("uri", "")


def low_port(free_port):
    """A free port that has room for its partner for gRPC, 10000 above."""
    while (port := free_port()) >= 55_000:
        pass
    return port


def test_the_local_stack_is_one_that_the_doctor_likes(tmp_path, free_port):
    names = ("MASTER", "VOLUME", "FILER", "S3", "ICEBERG", "LANCE")
    ports = {f"{name}_PORT": str(low_port(free_port)) for name in names}
    weed = Path(sys.executable).parent / "weed"
    script = [INFRA / "s3" / "local.sh", tmp_path / "data"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env = {**kept, **ports, "WEED": str(weed), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    process = subprocess.Popen(script, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert f"S3 at http://127.0.0.1:{ports['S3_PORT']}" in process.stdout.readline()
        (tmp_path / "pairs.csv").write_text("url,caption\nhttp://a/1.jpg,one\n")
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text((tmp_path / "data" / "recipe.yaml").read_text())
        with recipe.open("a") as file:
            file.write("corpus: stack\nsources: [{path: pairs.csv}]\n")
        command = f"source {tmp_path}/data/env && {sys.executable} -m rasterloom doctor {recipe}"
        done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "conditional writes hold" in done.stdout and "the catalog answers" in done.stdout
        assert "the clock is" in done.stdout and "the name 127.0.0.1" in done.stdout
    finally:
        process.terminate()
        process.wait(60)
