"""Protocol of readers: one class a kind of source."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from rasterloom.recipe.sources import Source
from rasterloom.sources.readers.row import Row


@dataclass(frozen=True)
class Listing:
    """File names of a source whose ``kind`` is auto."""

    names: list[str]  # the first file, or the files of the folder, up to a limit
    explicit: bool  # the recipe names each file


class Reader(Protocol):
    """Reads the sources of one kind. A plug-in is a class of these methods, made without arguments."""

    def matches(self, listing: Listing) -> bool:
        """Tell whether a source of kind auto is of this kind. Built-in kinds are asked first."""
        ...

    def check(self, source: Source) -> None:
        """Check that a source can be read, without reading all of it.

        Raises:
            SourceError: it is missing, or lacks a column that the recipe names.
        """
        ...

    def read(self, source: Source) -> Iterator[Row]:
        """Yield a row for every pair. One that is no pair comes as ``Row({UNREADABLE: text})``."""
        ...

    def digest(self, source: Source) -> str:
        """Return a digest of what a source holds. Where it differs, the pairs are read again."""
        ...
