"""A workflow is made once a command: what it digests is read once."""

import sys
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from rasterloom.cli.app import app
from rasterloom.errors import RecipeError
from rasterloom.pipelines.workflow import Workflow, check_step_name
from rasterloom.pipelines.workspace.status import write_record
from rasterloom.recipe.loader import load_recipe
from rasterloom.schema import StepKind
from rasterloom.sources.pairs import check_sources
from rasterloom.tokenize.text_tokenizer import train_text
from rasterloom.versions.record import Record

watched: list[tuple[str, list[str]]] = []


def _note(event, arguments):
    if event == "open":
        for path, opened in watched:
            if str(arguments[0]) == path:
                opened.append(path)


sys.addaudithook(_note)  # there is no way to take one out again


@contextmanager
def opens_of(path):
    entry = (str(path), [])
    watched.append(entry)
    try:
        yield entry[1]
    finally:
        watched.remove(entry)


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://a.test/1.jpg,one\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"corpus: demo\nworkspace: {tmp_path}/work\nsources: [{{path: pairs.csv}}]\n"
        "train: {stages: [{target: 512, steps: 1}]}\n"
    )
    return path


def make_text(workflow):
    """Put a text vocabulary in its place, so that commands go on to the stages."""
    corpus, text = workflow.corpus, workflow.step(StepKind.TEXT)
    corpus.store.put(corpus.layout.text(text.fingerprint), train_text(["a dog"], 300).encode())
    write_record(corpus, Record(text.name, text.fingerprint, text.code_version, text.settings, {}))


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("plan",), 0),
        (("train", "--dry-run"), 0),
        (("train", "--resume"), 2),
        (("sample", "--prompt", "a dog"), 2),
        (("evaluate",), 2),
        (("failures",), 0),
        (("keep", "--try", "min_side > 1"), 2),
    ],
    ids=str,
)
def test_a_command_digests_the_sources_once(recipe, tmp_path, command, code):
    make_text(Workflow(load_recipe(recipe)))
    sources = load_recipe(recipe).sources
    check_sources(sources)  # a process remembers what it has read of a file that has not changed
    with opens_of(tmp_path / "pairs.csv") as once:
        check_sources(sources)
    assert once
    name, *options = command
    with opens_of(tmp_path / "pairs.csv") as opened:
        result = CliRunner().invoke(app, [name, str(recipe), *options])
    error = result.exception if isinstance(result.exception, RecipeError) else None
    assert bool(error) == bool(code), result.output
    assert "text vocabulary" not in str(error)
    shown = 1 if name == "plan" else 0  # it shows the first rows
    assert len(opened) == len(once) + shown


def test_states_are_looked_up_once_until_they_are_asked_for_anew(recipe):
    workflow = Workflow(load_recipe(recipe))
    first = [planned.status for planned in workflow.plan()]
    assert all(a is b.status for a, b in zip(first, workflow.plan(), strict=True))
    workflow.refresh()
    assert all(a is not b.status and a == b.status for a, b in zip(first, workflow.plan(), strict=True))


def test_steps_are_found_by_name_kind_and_what_they_are_made_of(recipe):
    workflow = Workflow(load_recipe(recipe))
    assert [step.name for step in workflow.stages] == ["train/1-512"]
    assert workflow.step(StepKind.TOKENS) is workflow.step("tokens/512")
    assert [step.name for step in workflow.with_inputs([workflow.step(StepKind.SCORES)])] == [
        "pairs",
        "images",
        "scores",
    ]
    assert [step.name for step in workflow.until("text")][-1] == "text"
    with pytest.raises(RecipeError, match="no step is called nothing; the steps: pairs, images"):
        workflow.until("nothing")


def test_a_job_may_be_submitted_up_to_each_of_its_steps(recipe):
    workflow = Workflow(load_recipe(recipe))
    make_text(workflow)
    for step in workflow.steps:
        for name in (step.name, step.kind):
            check_step_name(workflow.recipe, name)
    with pytest.raises(RecipeError, match=r"no step is called tokn; did you mean tokens\? the steps: pairs"):
        check_step_name(workflow.recipe, "tokn")
