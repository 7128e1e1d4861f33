"""Messages of a run to a webhook."""

import json
import threading

import pytest
from aws import served
from rich.console import Console

from rasterloom.errors import RecipeError, StepFailed, TrainingStopped
from rasterloom.pipelines.progress import notify
from rasterloom.pipelines.progress.notify import WEBHOOK, notifying
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.run import Run


@pytest.fixture
def recipe(tmp_path):
    def make(run):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"corpus: photos\nsources: [{{path: pairs.csv}}]\nrun: {run}\n")
        return load_recipe(path)

    return make


@pytest.fixture
def webhook(monkeypatch):
    """Messages that came, and an event that one did."""
    found, came = [], threading.Event()

    def answer(headers, body):
        found.append(json.loads(body))
        came.set()
        return 200, "text/plain", b"ok"

    with served(answer) as address:
        monkeypatch.setenv(WEBHOOK, address)
        yield found, came


@pytest.fixture
def progress():
    made = Progress(Console(quiet=True))
    made.plan("photos", ["images"], Run())
    return made


@pytest.mark.parametrize(
    ("error", "event", "text"),
    [
        (None, "end", "photos: done"),
        (KeyboardInterrupt(), "end", "photos: stopped"),
        (TrainingStopped("stopped after step 7"), "end", "photos: stopped after step 7"),
        (StepFailed("images: no network"), "failure", "photos: failed: images: no network"),
    ],
)
def test_a_run_tells_how_it_ended(recipe, webhook, progress, error, event, text):
    def run():
        with notifying(recipe("{notify: [end, failure]}"), progress):
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            run()
    else:
        run()
    assert webhook[0] == [{"text": text, "corpus": "photos", "event": event}]


def test_a_run_tells_nothing_that_it_is_not_asked_for(recipe, webhook, progress, monkeypatch):
    with notifying(recipe("{notify: [failure]}"), progress):
        pass
    monkeypatch.delenv(WEBHOOK)
    with notifying(recipe("{}"), progress):
        pass
    assert webhook[0] == []


def test_a_step_that_stands_still_is_told_of(recipe, webhook, progress):
    found, came = webhook
    with (
        notifying(recipe("{notify: [stall], stall_minutes: 0.001}"), progress),
        progress.step("images", "new"),
    ):
        progress.step_started("images", 9, "shards")
        progress.advanced(4)
        assert came.wait(60)
    assert found[0]["event"] == "stall"
    assert found[0]["text"] == "photos: images has stood still at 4 shards for 0.001 minutes"


def test_without_an_address_nothing_is_started(recipe, progress, monkeypatch):
    monkeypatch.delenv(WEBHOOK, raising=False)
    with pytest.raises(RecipeError, match=WEBHOOK), notifying(recipe("{notify: [end]}"), progress):
        pytest.fail("it was started")


def test_a_webhook_that_does_not_answer_fails_no_run(recipe, progress, monkeypatch, free_port, caplog):
    monkeypatch.setenv(WEBHOOK, f"http://127.0.0.1:{free_port()}/secret")
    monkeypatch.setattr(notify, "SENDING", notify.RetryPolicy(lambda error: False, tries=1))
    with notifying(recipe("{notify: [end]}"), progress):
        pass
    assert "the webhook was not told" in caplog.text and "secret" not in caplog.text
