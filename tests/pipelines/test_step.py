"""Steps, and results that stand for the steps that made them."""

from dataclasses import replace
from io import StringIO

import pytest
from pydantic import BaseModel
from rich.console import Console

from rasterloom.errors import StepFailed
from rasterloom.pipelines.execution.runner import run_step
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import FileStep, FinishedStep, table_of
from rasterloom.pipelines.workspace.retries import worked_on
from rasterloom.pipelines.workspace.status import output_files, status, write_record
from rasterloom.recipe.run import Run
from rasterloom.schema import StepKind
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

RECORD = Record("text", "cafe", "2", {"text_vocab": 300}, {"images": "beef"})


class Nothing(BaseModel):
    pass


@pytest.fixture
def corpus(tmp_path):
    found = Corpus("little", Store(str(tmp_path)))
    found.store.put(found.layout.text("cafe"), b"{}")
    write_record(found, RECORD)
    return found


def test_a_finished_step_is_known_by_its_record(corpus):
    text = FinishedStep(RECORD, has_files=True)
    assert (text.name, text.fingerprint, text.kind, text.part) == ("text", "cafe", StepKind.TEXT, "")
    assert status(corpus, text).done and status(corpus, text).record == RECORD
    assert [file.name for file in output_files(corpus, text)] == [corpus.layout.text("cafe")]
    assert table_of(text) is None and table_of(FinishedStep(RECORD, "tokens")) == "tokens"
    assert worked_on([text]) == {"cafe"}


def test_it_gives_what_is_made_of_it_the_fingerprint_of_the_step_that_made_it():
    made = FileStep("text", Nothing(), "2", make=lambda context: {})
    finished = FinishedStep(replace(RECORD, fingerprint=made.fingerprint), has_files=True)
    steps = [FileStep("report", Nothing(), "1", (given,), make=made.make) for given in (made, finished)]
    assert steps[0].fingerprint == steps[1].fingerprint


def test_one_whose_result_was_replaced_is_not_run(corpus):
    gone = FinishedStep(replace(RECORD, fingerprint="dead"), has_files=True)
    assert status(corpus, gone).reason == "replaced by cafe"
    with pytest.raises(StepFailed, match="text: the result that was to be read has been replaced"):
        run_step(corpus, gone, Run(), "digest", Progress(Console(file=StringIO())))
