"""The corpus that is served: its index, which a later version replaces."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

from rasterloom.pipelines.maintenance.takedown import refuse_held
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.tombstones import latest_takedown
from rasterloom.recipe.recipe import Recipe
from rasterloom.serve.index import Index, opened
from rasterloom.versions.corpus import TABLES
from rasterloom.versions.refs import check_ref

FRESH_S = 5  # for which a look at the versions counts


@dataclass
class _Held:
    """Index, what it is of, and how many requests use it."""

    index: Index
    version: tuple[dict[str, int], int]
    closing: ExitStack
    users: int = 0


class Shelf:
    """A recipe's corpus. To be used in a ``with`` statement, which opens and closes it."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.workflow = Workflow(recipe)
        self.corpus = self.workflow.corpus
        self._held: _Held | None = None
        self._lock = threading.RLock()
        self._looked = 0.0
        self.one_trial = threading.Lock()  # of a rule with its duplicates, which takes a selection's memory

    def __enter__(self) -> Self:
        self._newest()
        return self

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._held.closing.close()

    @contextmanager
    def index(self) -> Iterator[Index]:
        """Lend the index of the present version. One that is replaced stays open while it is lent.

        Raises:
            RecipeError: there are no images.
            VersionError: there is no such version, or it holds rows that were taken down.
        """
        with self._lock:
            held = self._newest()
            held.users += 1
        try:
            yield held.index
        finally:
            with self._lock:
                held.users -= 1
                if held is not self._held and not held.users:
                    held.closing.close()

    def _newest(self) -> _Held:
        if self._held and time.monotonic() - self._looked < FRESH_S:
            return self._held
        found = {table: self.corpus.snapshot_id(table) for table in TABLES}
        snapshots = {table: snapshot for table, snapshot in found.items() if snapshot is not None}
        version = snapshots, latest_takedown(self.corpus.store, self.corpus.name)
        if self._held is None or version != self._held.version:
            self._replace(version)
        self._looked = time.monotonic()
        assert self._held is not None
        return self._held

    def _replace(self, version: tuple[dict[str, int], int]) -> None:
        check_ref(self.corpus)
        refuse_held(self.corpus)
        with ExitStack() as closing:
            index = closing.enter_context(opened(self.corpus, version[0]))
            before, self._held = self._held, _Held(index, version, closing.pop_all())
        self.workflow.refresh()
        if before and not before.users:
            before.closing.close()
