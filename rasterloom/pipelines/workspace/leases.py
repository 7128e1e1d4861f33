"""Leases on results in use, which ``versions gc`` respects.

A lease is a small file that names fingerprints; its holder renews it until the work ends. A run that starts
during a ``gc`` waits; ``gc`` leaves alone the results of a run that started before it. As each writes its
lease first and then looks for others, at least one of two that start at the same time sees the other.
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

from rasterloom.errors import StorageError, one_line
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus

logger = logging.getLogger(__name__)
GC = "gc"
RENEW_S = 15.0
EXPIRES_S = 120.0  # after the last renewal


@dataclass(frozen=True)
class Lease:
    """Lease of a process on some results."""

    name: str  # of its file in the store
    what: str  # the work: "run", "takedown" or "gc"
    fingerprints: frozenset[str]


@contextmanager
def hold_lease(
    corpus: Corpus,
    what: str,
    fingerprints: Iterable[str] = (),
    waiting: Callable[[str], None] = lambda why: None,
) -> Iterator[list[Lease]]:
    """Hold a lease during a block, and yield the leases of others.

    All but ``gc`` itself wait for the end of a ``gc`` first; ``waiting`` is called once then.
    """
    store, name = corpus.store, corpus.layout.lease(uuid.uuid4().hex)
    content = json.dumps({"what": what, "fingerprints": sorted(fingerprints)}).encode()
    store.put(name, content)
    over = threading.Event()
    renewal = threading.Thread(target=_renew, args=(store, name, content, over), daemon=True)
    renewal.start()
    try:
        warned = False
        while (beside := others(corpus, name)) and what != GC and any(w.what == GC for w in beside):
            if not warned:
                waiting("rasterloom versions gc is at work in this corpus: waiting for its end")
            warned = True
            time.sleep(0.5)
        yield beside
    finally:
        over.set()
        renewal.join()
        store.delete(name)


def expired(corpus: Corpus, now: datetime) -> list[str]:
    """Names of the leases of processes that were killed."""
    found = [name for name, written in _written(corpus).items() if _is_expired(written, now)]
    if found:
        logger.warning("%d leases were not renewed for %.0f s and count no more", len(found), EXPIRES_S)
    return found


def others(corpus: Corpus, mine: str = "") -> list[Lease]:
    """The leases of others, by the clock of the store."""
    written = _written(corpus)
    now = written.get(mine, datetime.now(UTC))
    alive = [name for name, when in written.items() if name != mine and not _is_expired(when, now)]
    found = []
    for name in alive:
        try:
            values = json.loads(corpus.store.read(name))
        except FileNotFoundError:  # released just now
            continue
        found.append(Lease(name, values["what"], frozenset(values["fingerprints"])))
    return found


def _is_expired(written: datetime, now: datetime) -> bool:
    return now - written > timedelta(seconds=EXPIRES_S)


def _written(corpus: Corpus) -> dict[str, datetime]:
    return {file.name: file.written for file in corpus.store.files(corpus.layout.leases)}


def _renew(store: Store, name: str, content: bytes, over: threading.Event) -> None:
    while not over.wait(RENEW_S):
        try:
            store.put(name, content)
        except (OSError, StorageError) as error:  # the next renewal may get through
            logger.warning("the lease %s was not renewed: %s", name, one_line(error))
