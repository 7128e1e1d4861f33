"""Counts of a source's records, and of what becomes of them."""

from collections import Counter
from dataclasses import dataclass, field

SHOWN = 1000  # names of files that are not read


@dataclass
class FileTally:
    """Records of one file: each is a row, or left out for a reason."""

    records: int = 0  # that the file holds
    rows: int = 0  # given out, usable or not
    extra: int = 0  # of the rows, further ones of a record
    parts: int = 0  # records that belong to the row of another: captions, other members of a sample
    left_out: Counter[str] = field(default_factory=Counter)  # records that are no row, by reason

    @property
    def is_whole(self) -> bool:
        """True if every record is accounted for."""
        return self.records == self.rows - self.extra + self.parts + self.left_out.total()


@dataclass
class Tally:
    """Records of one source, file by file. Readers fill it while they read."""

    files: dict[str, FileTally] = field(default_factory=dict)  # by name, relative to the source

    def file(self, name: str) -> FileTally:
        return self.files.setdefault(name, FileTally())

    def faults(self) -> list[str]:
        """Return a sentence for every file that lost records."""
        return [
            f"{name}: {count.records:,} records, of which {count.rows - count.extra:,} became rows"
            + (f", {count.parts:,} belong to them" if count.parts else "")
            + f" and {count.left_out.total():,} were left out"
            for name, count in self.files.items()
            if not count.is_whole
        ]


@dataclass
class Survey:
    """Files of a source by name: those that are read, and those that are not, with the reason."""

    kind: str
    read: Counter[str] = field(default_factory=Counter)  # files by suffix
    not_read: dict[str, Counter[str]] = field(default_factory=dict)  # reason -> files by suffix
    names: dict[str, list[str]] = field(default_factory=dict)  # reason -> the first names

    def skip(self, reason: str, suffix: str, name: str) -> None:
        """Note a file that is not read."""
        self.not_read.setdefault(reason, Counter())[suffix or "without a suffix"] += 1
        names = self.names.setdefault(reason, [])
        if len(names) < SHOWN:
            names.append(name)

    def lines(self) -> list[str]:
        """Return a line of files that are read, and one a reason."""
        read = [f"{_counted(self.read)} read"] if self.read else []
        return read + [f"{_counted(found)} not read ({reason})" for reason, found in self.not_read.items()]


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{count:,} {suffix}" for suffix, count in found.items())
