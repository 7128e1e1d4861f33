"""Stages begun by an earlier version, which cannot be continued."""

import json
import re

from rasterloom.errors import RecipeError
from rasterloom.pipelines.step import HasResult
from rasterloom.pipelines.workspace.status import read_record
from rasterloom.storage.layout import CHECKPOINTS, STREAMS
from rasterloom.utils.random_streams import VERSION
from rasterloom.versions.corpus import Corpus


def refuse_earlier(corpus: Corpus, step: HasResult) -> None:
    """Refuse to start over what an earlier version was training.

    Its random draws were others, so that it cannot continue, and nobody should lose its progress unasked.

    Raises:
        RecipeError: there are checkpoints of it, under another fingerprint, and no result.
    """
    found = _last_checkpoints(corpus, step)
    if step.fingerprint in found:
        return  # it has been started over
    for fingerprint, name in sorted(found.items()):
        if read_record(corpus, step.name, fingerprint):
            continue
        if _streams(corpus, name) < VERSION:
            place = (corpus.store.uri if corpus.store.is_s3 else corpus.store.path)(name.rpartition("/")[0])
            at = int(re.sub(r"\D", "", name.rpartition("/")[2]))
            raise RecipeError(
                f"{step.name} was begun by an earlier version of Rasterloom, whose random draws were others: "
                f"finish it with that version, or delete {place} (step {at:,}) to start it over"
            )


def _last_checkpoints(corpus: Corpus, step: HasResult) -> dict[str, str]:
    """Record of the last checkpoint of each fingerprint of a stage."""
    layout, last = corpus.layout, {}
    place = layout.training if corpus.store.is_s3 else layout.files
    start = place(step.name, "")
    for name in sorted(corpus.store.list(start)):
        fingerprint, _, inside = name.removeprefix(start).lstrip("/").partition("/")
        if re.fullmatch(rf"{CHECKPOINTS}/step-\d+\.json", inside):
            last[fingerprint] = name
    return last


def _streams(corpus: Corpus, name: str) -> int:
    """Version of the random draws that a checkpoint was made with. That of today if it cannot be read."""
    try:
        return int(json.loads(corpus.store.read(name)).get(STREAMS, 1))
    except (OSError, ValueError, AttributeError, TypeError):
        return VERSION
