"""Who is at work in a corpus, so that ``versions gc`` lets it be, and is let be.

Whoever works leaves a small file that names the fingerprints it works on, and writes it anew every now and
then as long as it lives. A run that comes while ``gc`` is at it waits; ``gc`` leaves alone what a run that
came before it works on. As each first says that it is there and then looks for others, one of two that come
at once sees the other.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rasterloom.errors import one_line
from rasterloom.storage.store import StorageError, Store
from rasterloom.versions.corpus import Corpus

logger = logging.getLogger(__name__)
GC = "gc"
BEAT_S = 15.0
DEAD_S = 120.0  # after which one that has not written its file is taken for dead


@dataclass(frozen=True)
class Worker:
    """One that is at work."""

    name: str  # of its file in the store
    what: str  # "run", "takedown" or "gc"
    fingerprints: frozenset[str]


@contextmanager
def at_work(
    corpus: Corpus,
    what: str,
    fingerprints: Iterable[str] = (),
    waiting: Callable[[str], None] = lambda why: None,
) -> Iterator[list[Worker]]:
    """Be known to be at work as long as the block lasts; the others that are at work are given to it.

    All but ``gc`` itself wait for a ``gc`` to end first; ``waiting`` is told so once.
    """
    store, name = corpus.store, corpus.layout.lease(uuid.uuid4().hex)
    content = json.dumps({"what": what, "fingerprints": sorted(fingerprints)}).encode()
    store.put(name, content)
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(store, name, content, over), daemon=True)
    beat.start()
    try:
        told = False
        while (beside := others(corpus, name)) and what != GC and any(w.what == GC for w in beside):
            if not told:
                waiting("rasterloom versions gc is at work in this corpus: waiting for its end")
            told = True
            time.sleep(0.5)
        yield beside
    finally:
        over.set()
        beat.join()
        store.delete(name)


def dead(corpus: Corpus, now: datetime) -> list[str]:
    """Return the names of the files that those left who were killed."""
    found = [name for name, written in _written(corpus).items() if _is_dead(written, now)]
    if found:
        logger.warning("%d leases were not renewed for %.0f s and count no more", len(found), DEAD_S)
    return found


def others(corpus: Corpus, mine: str = "") -> list[Worker]:
    """Return those at work beside one, which tells the time by the store's own clock."""
    written = _written(corpus)
    now = written.get(mine, datetime.now(UTC))
    alive = [name for name, when in written.items() if name != mine and not _is_dead(when, now)]
    found = []
    for name in alive:
        try:
            values = json.loads(corpus.store.read(name))
        except FileNotFoundError:  # it has just ended
            continue
        found.append(Worker(name, values["what"], frozenset(values["fingerprints"])))
    return found


def _is_dead(written: datetime, now: datetime) -> bool:
    return now - written > timedelta(seconds=DEAD_S)


def _written(corpus: Corpus) -> dict[str, datetime]:
    return {file.name: file.written for file in corpus.store.files(corpus.layout.leases)}


def _beat(store: Store, name: str, content: bytes, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        try:
            store.put(name, content)
        except (OSError, StorageError) as error:  # the next beat may get through
            logger.warning("the lease %s was not renewed: %s", name, one_line(error))
