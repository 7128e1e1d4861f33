"""A stage that an earlier version has begun is not started over unasked."""

import json

import pytest

from rasterloom.errors import RecipeError
from rasterloom.pipelines.step import FinishedStep
from rasterloom.pipelines.training.earlier_stages import refuse_earlier
from rasterloom.pipelines.workspace.status import write_record
from rasterloom.storage.store import Store
from rasterloom.utils.random_streams import VERSION
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

STEP = FinishedStep(Record("train/1-64", "new", "4", {}, {}))


@pytest.fixture
def corpus(tmp_path):
    return Corpus("c", Store(str(tmp_path)))


def checkpoint(corpus, fingerprint, step, **fields):
    name = f"c/files/train/1-64/{fingerprint}/checkpoints/step-{step:08d}.json"
    corpus.store.put(name, json.dumps({"position": {}, **fields}).encode())


def test_a_stage_under_way_by_other_streams_is_refused(corpus, tmp_path):
    checkpoint(corpus, "old", 200)
    checkpoint(corpus, "old", 1400)
    with pytest.raises(RecipeError) as error:
        refuse_earlier(corpus, STEP)
    place = tmp_path / "c/files/train/1-64/old/checkpoints"
    assert "train/1-64 was begun by an earlier version" in str(error.value)
    assert f"delete {place} (step 1,400) to start it over" in str(error.value)
    checkpoint(corpus, "new", 2, streams=VERSION)
    refuse_earlier(corpus, STEP)  # it has been started over


@pytest.mark.parametrize("why", ["nothing", "finished", "settings", "damaged", "another stage"])
def test_others_are_not_refused(corpus, why):
    if why == "finished":
        checkpoint(corpus, "old", 8)
        write_record(corpus, Record("train/1-64", "old", "2", {}, {}))
    elif why == "settings":  # the user's own change starts a stage over, as always
        checkpoint(corpus, "old", 8, streams=VERSION)
    elif why == "damaged":
        corpus.store.put("c/files/train/1-64/old/checkpoints/step-00000008.json", b"{")
    elif why == "another stage":
        corpus.store.put("c/files/train/1-64-96/old/checkpoints/step-00000008.json", b"{}")
    refuse_earlier(corpus, STEP)
