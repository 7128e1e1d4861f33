"""The commands of the DAG for Airflow, run as its operator would run them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jinja2
import pytest
from infra_files import Shell
from PIL import Image

from rasterloom.errors import FAILED, STOPPED, USELESS, WRONG_USE

EXAMPLE = Path(__file__).parents[2] / "examples" / "airflow_dag.py"
FIELDS = {"task_id", "bash_command", "env", "append_env", "retries", "skip_on_exit_code"}
STUB = """
log "rasterloom $*"
code=$(next_code)
[ "$code" != 0 ] || echo '{"event": "result"}'
exit "$code"
"""


class Operator:
    """Arguments of a BashOperator, kept."""

    def __init__(self, **given):
        assert set(given) == FIELDS  # https://airflow.apache.org/docs/apache-airflow-providers-standard/
        self.given, self.after = given, []

    def __rshift__(self, other):
        self.after.append(other.given["task_id"])
        return other


class Dag:
    """A block of operators."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def dag(monkeypatch):
    """The example, with what it takes of Airflow."""
    bash, sdk = ModuleType("bash"), ModuleType("sdk")
    bash.BashOperator, sdk.DAG = Operator, Dag
    for name in ("airflow", "airflow.providers", "airflow.providers.standard"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "airflow.providers.standard.operators", ModuleType("operators"))
    monkeypatch.setitem(sys.modules, "airflow.providers.standard.operators.bash", bash)
    monkeypatch.setitem(sys.modules, "airflow.sdk", sdk)
    spec = importlib.util.spec_from_file_location("airflow_dag", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command_of(operator, **pulled):
    """Command and variables of an operator, with its templates filled in."""

    class Task:
        def xcom_pull(self, task_ids):
            return pulled[task_ids]

    def fill(text):
        return jinja2.Template(text, keep_trailing_newline=True).render(ti=Task())

    env = {name: fill(value) for name, value in operator.given["env"].items()}
    return ["bash", "-c", fill(operator.given["bash_command"])], env


def test_its_tasks_follow_each_other_and_are_not_tried_again_by_airflow(dag):
    operators = [dag.check, dag.corpus, dag.train, dag.tell]
    names = [one.given["task_id"] for one in operators]
    assert [one.after for one in operators] == [[name] for name in names[1:]] + [[]]
    assert all(one.given["retries"] == 0 and one.given["append_env"] for one in operators)
    assert all(one.given["skip_on_exit_code"] == STOPPED for one in operators)


@pytest.mark.parametrize(
    ("codes", "ends", "tries"),
    [
        ("0", 0, 1),
        (f"{WRONG_USE}", WRONG_USE, 1),
        (f"{STOPPED}", STOPPED, 1),
        (f"{USELESS}", USELESS, 1),
        (f"{FAILED}", FAILED, 3),
        (f"{FAILED} 0", 0, 2),
        (f"137 {USELESS}", USELESS, 2),
    ],
)
def test_it_tries_again_where_the_exit_code_says_that_it_may_help(dag, tmp_path, codes, ends, tries):
    shell = Shell(tmp_path, {"rasterloom": STUB})
    command, env = command_of(dag.corpus)
    code, printed = shell.run(*command, **env, CODES=codes)
    assert code == ends
    assert shell.said() == [f"rasterloom run {dag.RECIPE} --until tokens --log json"] * tries
    assert printed.endswith('{"event": "result"}\n') == (ends == 0)


@pytest.fixture
def real(tmp_path):
    """Run an operator's command with the real program, as Airflow does: what it prints is one stream."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "rasterloom").write_text(f'#!/bin/sh\nexec {sys.executable} -m rasterloom "$@"\n')
    (tools / "rasterloom").chmod(0o755)

    def run(operator, recipe, **pulled):
        command, env = command_of(operator, **pulled)
        env = {**os.environ, **env, "RECIPE": str(recipe), "PATH": f"{tools}:{os.environ['PATH']}"}
        done = subprocess.run(
            command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.returncode, done.stdout.splitlines()

    return run


def write(folder, keep="min_side >= 8"):
    for number in range(3):
        (folder / "images").mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (40 * number, 99, 0)).save(folder / "images" / f"{number}.png")
        (folder / "images" / f"{number}.txt").write_text(f"square number {number}")
    recipe = folder / "recipe.yaml"
    text = f"corpus: squares\nworkspace: {folder}/work\nsources: [{{path: images}}]\nscore: []\n"
    text += "tokenize: {targets: [64], text_vocab: 300}\n"
    recipe.write_text(f"{text}keep: {keep}\ndedup: {{phash_radius: null}}\nrun: {{cpus: 1}}\n")
    return recipe


def test_its_check_fails_before_anything_runs(dag, real, tmp_path):
    code, printed = real(dag.check, write(tmp_path).with_name("missing.yaml"))
    assert code == WRONG_USE and len(printed) == 1 and "missing.yaml" in printed[0]


def test_its_tasks_build_a_corpus_and_hand_on_where_it_is(dag, real, tmp_path):
    recipe = write(tmp_path)
    code, printed = real(dag.check, recipe)
    assert code == 0 and {json.loads(line)["step"] for line in printed} >= {"pairs", "images", "report"}
    code, printed = real(dag.corpus, recipe)
    assert code == 0, printed
    events = [json.loads(line) for line in printed]
    assert [event["event"] for event in events[-2:]] == ["over", "result"]
    assert events[-1]["steps"] == events[-1]["ran"]
    code, printed = real(dag.train, recipe)
    assert code == 0 and json.loads(printed[-1])["ran"] < json.loads(printed[-1])["steps"]
    code, told = real(dag.tell, recipe, train=printed[-1])
    assert code == 0 and any(line.startswith("report: ") for line in told)
    code, printed = real(dag.corpus, write(tmp_path, keep="min_side >= 65"))
    assert code == USELESS and "none of 3 rows is kept" in printed[-1]
