"""Exit codes, error lines and start-up of the command line."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.cli.options import with_options
from rasterloom.errors import (
    INTERRUPTED,
    STOPPED_TEXT,
    RecipeError,
    SourceError,
    StageImpossible,
    StepImpossible,
    StorageError,
    StorageUnusable,
    TrainingDiverged,
    TrainingError,
    TrainingStopped,
)

GOOD = "corpus: demo\nsources: [{path: pairs.parquet}]\n"


@pytest.fixture
def recipe(tmp_path):
    """A function that writes a recipe beside a file of two pairs."""
    table = pa.table({"url": ["http://a/1.jpg", "http://a/2.jpg"], "caption": ["one", "two"]})
    pq.write_table(table, tmp_path / "pairs.parquet")

    def write(text=GOOD):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "tokenise: {}", ["tokenise", "did you mean tokenize?"]),
        (GOOD + "fetch: {deadline_s: soon}", ["fetch.deadline_s", "number", "'soon'"]),
        (GOOD + "tokenize: {codec: vqgan}", ["tokenize.codec", "vqgan", "mini"]),
        (GOOD + "tokenize: {targets: [500]}", ["multiple of 32", "500"]),
        (GOOD + "score: [beauty]", ["beauty", "quality"]),
        (GOOD + "keep: beauty > 3", ["beauty", "quality"]),
        (GOOD + "keep: quality >", ["rule"]),
        ("corpus: demo\nsources: [{path: nowhere.parquet}]", ["nowhere.parquet: no such file"]),
        (
            "corpus: demo\nsources: [{path: pairs.parquet, caption: text}]",
            ["pairs.parquet: no column 'text' for the caption; it has url, caption"],
        ),
        (
            "corpus: demo\nsources: [{path: pairs.parquet, licence: {column: rights}}]",
            ["no column 'rights' for the licence; it has url, caption"],
        ),
        ("corpus: demo\nsources: [{path: '*.tar'}]", ["*.tar: no files there"]),
    ],
)
def test_a_wrong_recipe_is_one_clear_line_and_exit_2(rasterloom, recipe, text, words):
    for command in ("plan", "run"):
        code, out, err = rasterloom(command, recipe(text))
        assert code == 2, err
        assert out == ""
        assert len(err.strip().splitlines()) == 1, err
        for word in words:
            assert word in err


def test_a_missing_recipe(rasterloom, tmp_path):
    code, _, err = rasterloom("run", tmp_path / "nowhere.yaml")
    assert (code, err.strip()) == (2, f"no recipe at {tmp_path / 'nowhere.yaml'}")


def test_wrong_use(rasterloom, recipe):
    assert rasterloom("run", recipe(), "--untill", "tokens")[0] == 2
    assert rasterloom("run")[0] == 2
    assert rasterloom("fly")[0] == 2
    code, _, err = rasterloom("run", recipe(), "--until", "beauty")
    assert code == 2 and "beauty" in err and "selection" in err


def test_plan_explains_and_changes_nothing(rasterloom, recipe, tmp_path):
    code, out, _ = rasterloom("plan", recipe())
    assert code == 0
    assert "  new" in out and "tokens/512" in out
    assert not (tmp_path / "work").exists()
    rows = [json.loads(line) for line in rasterloom("plan", recipe(), "--format", "json")[1].splitlines()]
    assert rows[0]["step"] == "pairs" and all(row["runs"] for row in rows)


def test_looking_at_nothing(rasterloom, recipe):
    assert rasterloom("failures", recipe())[0] == 0
    assert rasterloom("versions", "log", recipe())[0] == 0


def test_submit_knows_the_classes_of_error_before_it_asks_a_cluster(rasterloom, recipe):
    code, _, err = rasterloom("submit", recipe(), "--retry", "timeout,slow")
    assert code == 2 and "no class of error is called slow" in err


@pytest.mark.parametrize("until", ["nonsense", "tokens/513", "train", "suite"])
def test_submit_knows_the_steps_before_it_asks_a_cluster(rasterloom, recipe, until):
    code, _, err = rasterloom("submit", recipe(), "--until", until)
    assert code == 2 and f"no step is called {until}; " in err and "the steps: pairs, images" in err


def test_doctor(rasterloom, recipe):
    code, out, _ = rasterloom("doctor", recipe())
    assert code == 0, out
    assert "conditional writes" in out and "ray" in out


def test_help_names_every_command(rasterloom):
    code, out, _ = rasterloom("--help")
    assert code == 0
    for command in ("run", "plan", "submit", "versions", "report", "failures", "doctor"):
        assert command in out


def test_what_is_missing_is_named(rasterloom):
    code, _, err = rasterloom("jobs", "stop")
    assert code == 2 and "Missing argument 'ID'" in err


def test_help_ends_with_the_exit_codes(rasterloom):
    out = " ".join(rasterloom("--help")[1].split())
    assert "0 done | 1 failed; the same command may succeed | 2 wrong use" in out
    assert "3 stopped as asked" in out and "4 failed, and would fail again | 130 interrupted" in out


def broken(monkeypatch, error):
    """Let the code below ``plan`` raise an error."""

    def load(path):
        raise error

    monkeypatch.setattr("rasterloom.recipe.loader.load_recipe", load)


@pytest.mark.parametrize("error", [KeyError("beauty"), OSError("the reader is gone"), TypeError("a bug")])
def test_an_unexpected_error_is_one_line_and_its_traceback_is_in_the_log(
    rasterloom, recipe, monkeypatch, error
):
    broken(monkeypatch, error)
    code, out, err = rasterloom("plan", recipe())
    assert (code, out) == (1, "") and len(err.strip().splitlines()) == 1
    assert err.startswith(f"unexpected error: {type(error).__name__}: ")
    log = Path(err.strip().rpartition("; traceback in ")[2]).read_text()
    assert "Traceback (most recent call last)" in log and "in load" in log


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied", "/somewhere/file"),
    ],
)
def test_a_full_disk_and_a_file_that_may_not_be_read_are_no_unexpected_errors(
    rasterloom, recipe, monkeypatch, error
):
    broken(monkeypatch, error)
    assert rasterloom("plan", recipe()) == (1, "", f"{error}\n")


def test_an_error_that_a_library_makes_of_ctrl_c_is_a_stop(rasterloom, recipe, monkeypatch):
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    broken(monkeypatch, error)
    assert rasterloom("plan", recipe()) == (INTERRUPTED, "", f"{STOPPED_TEXT}\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecipeError("takes a number", field="stage", value="x"), 2),
        (SourceError("no such file"), 2),
        (StorageError("the bucket is gone"), 1),
        (TrainingError("a worker is gone"), 1),
        (TrainingStopped("after step 7"), 3),
        (StorageUnusable("there is no such bucket"), 4),
        (StepImpossible("none of 9 rows is kept"), 4),
        (StageImpossible("no rows"), 4),
        (TrainingDiverged("nan"), 4),
    ],
)
def test_the_class_of_an_error_sets_the_exit_code(rasterloom, recipe, monkeypatch, error, code):
    broken(monkeypatch, error)
    assert rasterloom("plan", recipe()) == (code, "", with_options(error) + "\n")


def test_help_imports_nothing_heavy():
    heavy = {
        "pandas",
        "pyiceberg",
        "pyarrow",
        "torch",
        "ray",
        "numpy",
        "duckdb",
        "aiohttp",
        "pydantic",
        "PIL",
    }
    code = (
        "import sys; from rasterloom.cli.entry import main; sys.argv = ['rasterloom', '--help']\n"
        "try: main()\n"
        f"finally: print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "Exit codes" in done.stdout
