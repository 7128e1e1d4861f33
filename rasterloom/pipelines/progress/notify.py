"""Messages of a run to a webhook: its end, its failure, and a step that stands still."""

import json
import logging
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rasterloom.errors import RecipeError, TrainingStopped, one_line
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.progress.run_state import State
from rasterloom.recipe.recipe import Recipe
from rasterloom.utils.redact import cut
from rasterloom.utils.retry import RetryPolicy

WEBHOOK = "RASTERLOOM_WEBHOOK"  # its address is a secret: whoever knows it can write there
ANSWER_S = 10.0
SENDING = RetryPolicy(lambda error: isinstance(error, OSError), tries=3, base_s=1.0)
logger = logging.getLogger(__name__)


@contextmanager
def notifying(recipe: Recipe, progress: Progress) -> Iterator[None]:
    """Send the messages that a recipe asks for of this block.

    Raises:
        RecipeError: the environment does not say where to.
    """
    wanted = recipe.run.notify
    if not wanted:
        yield
        return
    address = os.environ.get(WEBHOOK, "")
    if not address.startswith(("https://", "http://")):
        message = f"needs the address of a webhook, https://..., in the variable {WEBHOOK}"
        raise RecipeError(message, field="run.notify")

    def send(event: str, text: str) -> None:
        if event in wanted:
            _post(address, {"text": f"{recipe.corpus}: {text}", "corpus": recipe.corpus, "event": event})

    over = threading.Event()
    watch = threading.Thread(
        target=lambda: _watch(progress, 60 * recipe.run.stall_minutes, over, send), name="stall", daemon=True
    )
    watch.start()
    event, text = "end", "stopped"
    try:
        yield
        text = "done"
    except TrainingStopped as error:
        text = one_line(error)
        raise
    except Exception as error:
        event, text = "failure", f"failed: {cut(one_line(error))}"
        raise
    finally:
        over.set()
        send(event, text)


def _watch(
    progress: Progress, longest_s: float, over: threading.Event, send: Callable[[str, str], None]
) -> None:
    """Tell of a step that is where it was a while ago."""
    before = None
    while not over.wait(longest_s):
        step = progress.run.running
        now = (step.name, step.done, step.unit) if step and step.state is State.RUNNING else None
        if now and now == before:
            name, done, unit = now
            send("stall", f"{name} has stood still at {done} {unit} for {longest_s / 60:g} minutes")
        before = now


def _post(address: str, message: dict[str, str]) -> None:
    """Post a message. A webhook that does not answer is in the log, and fails nothing."""
    request = urllib.request.Request(
        address, json.dumps(message).encode(), {"Content-Type": "application/json"}, method="POST"
    )

    def post() -> None:
        with urllib.request.urlopen(request, timeout=ANSWER_S):
            pass

    try:
        SENDING.call("message to the webhook", post)
    except (OSError, ValueError) as error:
        logger.warning("the webhook was not told: %s: %s", message["event"], type(error).__name__)
