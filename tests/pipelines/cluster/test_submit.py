"""What a job takes along, what it is not given, and what is refused before anything is sent."""

import json
import os
import stat
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.errors import RecipeError
from rasterloom.pipelines.cluster import environment
from rasterloom.pipelines.cluster import packaging as package_
from rasterloom.pipelines.cluster.submit import check_job, prepare
from rasterloom.recipe.loader import load_recipe

RECIPE = "corpus: demo\nworkspace: {workspace}\nsources: [{{path: pairs.csv}}]\n"


@pytest.fixture
def folder(tmp_path):
    """A recipe's folder, with what grows in one."""
    place = tmp_path / "job"
    for name, text in {
        "pairs.csv": "url,caption\nhttp://a/1.jpg,one\n",
        "notes/read.me": "notes",
        "notes/old/.rayignore": "*.bin\n",
        "notes/old/kept.txt": "kept",
        "notes/old/big.bin": "left out",
        ".gitignore": "/data\n",
        "data/pairs.csv": "left out",
        ".git/config": "left out",
        ".venv/bin/python": "left out",
        ".venv-img2dataset/bin/python": "left out",
        "deep/__pycache__/x.pyc": "left out",
    }.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    (place / "recipe.yaml").write_text(RECIPE.format(workspace=tmp_path / "work"))
    return place


def submission(folder, until=None, retry="", env=(), **more):
    return prepare(folder / "recipe.yaml", until, retry, list(env), **more)


def test_a_job_takes_the_folder_along_and_nothing_that_is_big_or_ignored(folder, tmp_path):
    job = submission(folder, "tokens", "timeout,dns")
    assert job.entrypoint == "python -m rasterloom run recipe.yaml --until tokens --retry timeout,dns"
    assert set(job.package.files) == {
        "recipe.yaml",
        "pairs.csv",
        ".gitignore",
        "notes/read.me",
        "notes/old/.rayignore",
        "notes/old/kept.txt",
    }
    given_ = job.arguments(tmp_path)
    with zipfile.ZipFile(given_["runtime_env"]["working_dir"]) as archive:
        assert set(archive.namelist()) == set(job.package.files)
        assert archive.read("notes/read.me") == b"notes"
    assert given_["metadata"] == {"rasterloom": "demo"} and given_["entrypoint_num_cpus"] == 1
    assert given_["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "30"}
    assert "py_modules" not in given_["runtime_env"]


def test_what_the_driver_takes_is_the_recipe_s(folder):
    with (folder / "recipe.yaml").open("a") as file:
        file.write("run: {driver: {cpus: 2, memory: 8GB, resources: {steady: 1}}}\n")
    assert submission(folder).takes == {
        "entrypoint_num_cpus": 2,
        "entrypoint_memory": 8_000_000_000,
        "entrypoint_resources": {"steady": 1},
    }


def test_a_package_that_is_too_big_names_what_is(folder, monkeypatch):
    monkeypatch.setattr(package_, "LIMIT", 10_000)
    (folder / "weights.pt").write_bytes(b"x" * 20_000)
    with pytest.raises(RecipeError, match=r"biggest: weights\.pt .*\.rayignore"):
        submission(folder)
    (folder / ".rayignore").write_text("*.pt\n")
    assert "weights.pt" not in submission(folder).package.files


def test_a_workspace_that_goes_with_the_job_is_refused(folder, monkeypatch):
    (folder / "recipe.yaml").write_text(RECIPE.format(workspace="./work"))
    with pytest.raises(RecipeError, match=r"workspace: .*/job/work lies in the recipe's folder"):
        submission(folder)
    recipe = load_recipe(folder / "recipe.yaml")
    monkeypatch.chdir(folder)
    check_job(recipe)  # this is no job
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {}}')
    check_job(recipe)  # this one has no folder of its own
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"working_dir": "gcs://x.zip"}}')
    with pytest.raises(RecipeError, match="goes when the job does"):
        check_job(recipe)


def test_a_source_that_is_left_out_is_reported(folder, tmp_path):
    text = RECIPE.format(workspace=tmp_path / "work")
    (folder / "recipe.yaml").write_text(text.replace("pairs.csv", "data/*.csv"))
    with pytest.raises(RecipeError, match=r"sources\[0\]: data/\*\.csv is left out"):
        submission(folder)


def test_variables_are_named_and_not_shown(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "s3cr3t")
    job = submission(folder, env=["A_SECRET"])
    sent = job.arguments(tmp_path)
    assert "s3cr3t" not in json.dumps(sent) + repr(job)
    assert sent["runtime_env"]["worker_process_setup_hook"] == "rasterloom.pipelines.cluster.environment.take"
    for names, words in (
        (["NOT_SET_HERE"], "NOT_SET_HERE is not set here"),
        (["A_SECRET=x"], "takes a name, not a value; export A_SECRET"),
        (["RAY_AUTH_TOKEN"], "the cluster's own"),
    ):
        with pytest.raises(RecipeError, match=words):
            submission(folder, env=names)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z_]{1,9}_TEST", fullmatch=True),
        st.text(st.characters(codec="utf-8", min_codepoint=1)),
    )
)
def test_variables_arrive_as_they_were(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("package")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in values:
            patch.delenv(name, raising=False)
        package_.Package(folder, {}).write(folder / "package.zip", values)
        with zipfile.ZipFile("package.zip") as archive:
            archive.extractall()
        patch.setattr(os, "environ", dict(os.environ))
        environment.take()  # nothing says that there are any
        assert not set(values) & set(os.environ)
        os.environ[environment.NAMES_FILE] = environment.FILE
        if values:
            environment.take()
            assert {name: os.environ[name] for name in values} == values
            assert stat.S_IMODE(os.stat(environment.FILE).st_mode) == 0o600
        else:
            assert not os.path.exists(environment.FILE)
