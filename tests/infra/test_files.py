"""Every file of infra/ is what its tool takes."""

import fnmatch
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from infra_files import INFRA, files

from rasterloom.recipe.loader import load_recipe

# Who checks what, by pattern; a file that nobody checks fails.
CHECKED = {
    "aws/*.yaml": "test_account.py",
    "docker/*": "test_images.py, and retry.sh in test_scripts.py",
    "kuberay/*/*": "test_kuberay.py",
    "ray/*.yaml": "test_ray_up.py",
    "ray/*policy.json": "test_policies.py",
    "skypilot/*.yaml": "test_scripts.py",
    "slurm/*.sbatch": "test_scripts.py",
    "s3/*.sh": "the local stack",
    "s3/*policy.json": "test_policies.py",
    "s3/lifecycle.json": "lifecycle",
    "s3/catalogs/*.yaml": "recipes",
    "grafana/*.json": "pipelines/progress/test_prometheus.py",
    "clip-retrieval/*": "its own README, with clip-retrieval's environment",
}


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
    env = {**kept, **ports, "WEED": str(weed), "PYTHONPATH": str(INFRA.parent), "COLUMNS": "200"}
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
