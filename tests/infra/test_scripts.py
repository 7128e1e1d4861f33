"""Scripts for Slurm and SkyPilot, and `rasterloom-retry`: each command fails, and all of them end."""

import signal
import subprocess
import time

import pytest
import yaml
from infra_files import INFRA, RETRY, Shell, files

import rasterloom

SBATCH = INFRA / "slurm" / "rasterloom.sbatch"
FINAL = (0, 2, 3, 4)  # exit codes after which nothing is tried again
# Ray's head is up from when it was started until it is killed; RAY says what goes wrong with it.
RAY = r"""
case "$1 $2" in
"health-check --address")
    [ "${RAY:-}" = deaf ] && exit 1
    [ "${RAY:-}" = answers ] || [ -e "$FOLDER/up" ]
    ;;
"start --head")
    log "ray $* mode=$RAY_AUTH_MODE token=${RAY_AUTH_TOKEN:-$(wc -c < "${RAY_AUTH_TOKEN_PATH:-/dev/null}")}"
    [ "${RAY:-}" = broken ] && exit 1
    trap 'rm -f "$FOLDER/up"; log "ray head ended"; exit 0' TERM
    touch "$FOLDER/up"
    while :; do /usr/bin/sleep 0.05; done
    ;;
*) log "ray $*"; [ "${WORKERS:-}" != broken ] ;;
esac
"""
PYTHON = r"""
log "python $* at $RAY_ADDRESS"
[ -z "${LONG:-}" ] || { trap 'exit 3' TERM; touch "$FOLDER/running"; while :; do /usr/bin/sleep 0.05; done; }
exit "$(next_code)"
"""


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize("path", files("slurm/*.sbatch") + files("s3/*.sh") + [RETRY], ids=lambda p: p.name)
def test_bash(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert path.stat().st_mode & 0o111 and "set -euo pipefail" in path.read_text()


# rasterloom-retry


@pytest.fixture
def retry(tmp_path):
    return Shell(tmp_path, {"work": 'log work; exit "$(next_code)"'})


@pytest.mark.parametrize("code", FINAL)
def test_a_final_exit_code_is_not_tried_again(retry, code):
    assert retry.run("rasterloom-retry", "work", CODES=f"{code}") == (code, "")
    assert retry.said() == ["work"]


@pytest.mark.parametrize(
    ("codes", "ends", "tries"), [("1 1 1", 1, 3), ("1 0", 0, 2), ("137 4", 4, 2), ("1 1 0", 0, 3)]
)
def test_others_are_tried_three_times(retry, codes, ends, tries):
    code, printed = retry.run("rasterloom-retry", "work", CODES=codes)
    assert code == ends and retry.said() == ["work"] * tries
    assert printed.count("the next one in a minute") == tries - 1


@pytest.mark.parametrize("moment", ["working", "waiting"])
def test_sigterm_is_passed_on_and_ends_it(tmp_path, moment):
    body = 'log work; touch "$FOLDER/now"; trap "exit 3" TERM; while :; do /usr/bin/sleep 0.05; done'
    commands = {
        "working": {"work": body},
        "waiting": {"work": "log work; exit 1", "sleep": 'touch "$FOLDER/now"; exec /usr/bin/sleep 60'},
    }
    shell = Shell(tmp_path, commands[moment])
    process = shell.start("rasterloom-retry", "work")
    wait_for(tmp_path / "now", process)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert shell.end(process)[0] == (3 if moment == "working" else 1)
    assert shell.said() == ["work"]


# Slurm


@pytest.fixture
def slurm(tmp_path):
    """Two nodes, both of which are this machine."""
    commands = {
        "scontrol": '[ "$1" = show ] && printf "one\\ntwo\\n" || log "scontrol $*"',
        "srun": 'log "srun cpus=$SRUN_CPUS_PER_TASK"; while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "ray": RAY,
        "python": PYTHON,
    }
    env = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "16"}
    return Shell(tmp_path, commands, {**env, "SLURM_GPUS_ON_NODE": "8"})


def requeued(shell):
    return shell.count("scontrol requeue 77")


def test_slurm_runs_a_recipe_on_its_nodes(slurm):
    code, printed = slurm.run(SBATCH, "recipe.yaml", "--until", "tokens")
    assert code == 0, printed
    said = "\n".join(slurm.said())
    assert "ray start --head --port=20077" in said and "mode=token token=64" in said
    assert "python -m rasterloom run recipe.yaml --until tokens at one:20077" in said
    assert not list(slurm.folder.glob(".rasterloom-*"))  # the token goes with the job
    assert said.count("srun cpus=16") == said.count("srun") >= 2 and not requeued(slurm)


def test_slurm_starts_a_ray_on_the_other_nodes(slurm):
    process = slurm.start(SBATCH, "recipe.yaml", LONG="1")
    wait_for(slurm.folder / "running", process)
    while not slurm.count("ray start --address=one:20077 --num-cpus 16 --num-gpus 8"):
        assert process.poll() is None
    process.kill()
    slurm.end(process)


@pytest.mark.parametrize(
    ("code", "again"), [(0, 0), (1, 1), (2, 0), (3, 0), (4, 0), (130, 0), (143, 0), (137, 1), (139, 1)]
)
def test_slurm_queues_a_job_again_where_that_may_help(slurm, code, again):
    """3, 130 and 143 come of scancel, if no SIGTERM came to the script itself."""
    assert slurm.run(SBATCH, "recipe.yaml", CODES=f"{code}")[0] == code
    assert requeued(slurm) == again


@pytest.mark.parametrize(("restarts", "again"), [("9", 1), ("10", 0), ("11", 0)])
def test_slurm_queues_a_job_again_ten_times(slurm, restarts, again):
    code, printed = slurm.run(SBATCH, "recipe.yaml", CODES="1", SLURM_RESTART_COUNT=restarts)
    assert code == 1 and requeued(slurm) == again
    assert ("this was the last" in printed) == (not again)


@pytest.mark.parametrize("ray", ["broken", "deaf"])
def test_slurm_does_not_wait_for_ever_for_a_head(slurm, ray):
    code, printed = slurm.run(SBATCH, "recipe.yaml", RAY=ray, SLURM_RESTART_COUNT="10")
    assert code == 1 and "Ray does not answer at one:20077" in printed
    assert not slurm.count("python") and not requeued(slurm)


def test_slurm_gives_up_a_worker_that_cannot_join(slurm):
    process = slurm.start(SBATCH, "recipe.yaml", LONG="1", WORKERS="broken")
    while slurm.count("ray start --address") < 5:
        assert process.poll() is None
    time.sleep(0.3)
    assert slurm.count("ray start --address") == 5
    process.kill()
    slurm.end(process)


@pytest.mark.parametrize("moment", ["running", "waiting for the head"])
def test_slurm_queues_a_job_again_at_its_time_limit(slurm, moment):
    env = {"LONG": "1"} if moment == "running" else {"RAY": "deaf"}
    process = slurm.start(SBATCH, "recipe.yaml", **env)
    wait_for(slurm.folder / ("running" if moment == "running" else "up"), process)
    process.send_signal(signal.SIGTERM)
    assert slurm.end(process)[0] == (3 if moment == "running" else 1)
    assert requeued(slurm) == 1


def test_slurm_without_a_recipe_is_wrong_use(slurm):
    assert slurm.run(SBATCH)[0] == 2 and not slurm.said()


# SkyPilot

SKY = pytest.mark.parametrize("path", files("skypilot/*.yaml"), ids=lambda p: p.name)
TOKEN = "a" * 64


@pytest.fixture
def sky(tmp_path):
    env = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "0"}
    return Shell(
        tmp_path,
        {"ray": RAY, "python": PYTHON},
        {**env, "RECIPE": "recipe.yaml", "UNTIL": "tokens", "RASTERLOOM_RAY_TOKEN": TOKEN},
    )


def task(path):
    return ["bash", "-c", yaml.safe_load(path.read_text())["run"]]


@SKY
def test_sky_asks_for_what_there_is(path):
    asked = yaml.safe_load(path.read_text())
    assert set(asked) <= {"name", "num_nodes", "workdir", "resources", "envs", "secrets", "setup", "run"}
    assert asked["resources"]["use_spot"]
    assert asked["resources"]["image_id"].endswith(f":{rasterloom.__version__}-gpu")
    assert asked["resources"]["job_recovery"]["max_restarts_on_errors"] == 0  # `run` looks at the exit code
    assert set(asked["envs"]) == {"RECIPE", "UNTIL"}
    assert asked["secrets"] == {"RASTERLOOM_RAY_TOKEN": None}  # `sky` asks for it


@SKY
@pytest.mark.parametrize("token", ["", "short"])
def test_sky_starts_nothing_without_a_token(sky, path, token):
    code, printed = sky.run(*task(path), RASTERLOOM_RAY_TOKEN=token)
    assert code == 2 and "--secret RASTERLOOM_RAY_TOKEN" in printed and not sky.said()


@SKY
@pytest.mark.parametrize(
    ("codes", "ends", "tries"),
    [("0", 0, 1), ("2", 2, 1), ("3", 3, 1), ("4", 4, 1), ("1", 1, 3), ("1 0", 0, 2), ("137 4", 4, 2)],
)
def test_sky_ends_as_its_run_does(sky, path, codes, ends, tries):
    assert sky.run(*task(path), CODES=codes)[0] == ends
    assert sky.count("python -m rasterloom run recipe.yaml --until tokens at 10.0.0.1:6399") == tries
    assert sky.count("ray start --head --port=6399") == sky.count("ray head ended") == tries
    assert sky.said()[0].endswith(f"mode=token token={TOKEN}")
    assert not sky.count("ray stop")  # SkyPilot's own Ray would end, too


@SKY
@pytest.mark.parametrize("ray", ["broken", "deaf"])
def test_sky_fails_where_ray_does_not_start(sky, path, ray):
    assert sky.run(*task(path), RAY=ray)[0] == 1
    assert sky.count("ray start --head") == 3 and not sky.count("python")


@SKY
def test_a_worker_of_sky_ends_where_there_is_no_head(sky, path):
    code, printed = sky.run(*task(path), SKYPILOT_NODE_RANK="1")
    assert code == 1 and "no Ray at 10.0.0.1:6399" in printed and not sky.said()


@SKY
@pytest.mark.parametrize("workers", ["", "broken"])
def test_a_worker_of_sky_joins_again_but_not_for_ever(sky, path, workers):
    assert sky.run(*task(path), SKYPILOT_NODE_RANK="1", RAY="answers", WORKERS=workers)[0] == 0
    assert sky.count("ray start --address=10.0.0.1:6399") == 20


@SKY
def test_a_worker_of_sky_ends_when_its_head_is_gone(sky, path):
    ray = sky.folder / "bin" / "ray"
    ray.write_text(ray.read_text().replace('*) log "ray $*";', '*) log "ray $*"; rm "$FOLDER/up";'))
    (sky.folder / "up").touch()
    assert sky.run(*task(path), SKYPILOT_NODE_RANK="1")[0] == 0
    assert sky.count("ray start --address") == 1
