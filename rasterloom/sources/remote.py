"""Stores of sources that are neither on a disk nor on S3: whatever pyarrow or fsspec opens, to read only."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from rasterloom.errors import SourceError, one_line
from rasterloom.storage.store import Entry, Store
from rasterloom.utils.redact import masked

BY_ARROW = ("gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")  # schemes that need no other library


def is_local(path: str) -> bool:
    return "://" not in path


def scheme_of(path: str) -> str:
    """Return the scheme of a path, empty for one on a disk."""
    return "" if is_local(path) else path.partition("://")[0].lower()


def store_of(root: str) -> Store:
    """Return the store that a source's files lie in."""
    return Store(root) if scheme_of(root) in ("", "s3") else RemoteStore(root)


@dataclass(frozen=True)
class RemoteStore(Store):
    """Tree of files that pyarrow or fsspec opens."""

    def __post_init__(self) -> None:
        pass

    @cached_property
    def _opened(self) -> tuple[pafs.FileSystem, str]:
        try:
            if scheme_of(self.root) in BY_ARROW:
                filesystem, path = pafs.FileSystem.from_uri(self.root)
                return filesystem, str(path)
            import fsspec  # heavy

            opened, path = fsspec.core.url_to_fs(self.root)
            return pafs.PyFileSystem(pafs.FSSpecHandler(opened)), str(path)
        except (ImportError, ValueError, OSError, pa.ArrowException) as error:
            raise SourceError(f"{masked(self.root)}: cannot be opened: {one_line(error)}") from None

    @property
    def filesystem(self) -> pafs.FileSystem:
        return self._opened[0]

    def path(self, name: str = "") -> str:
        return f"{self._opened[1].rstrip('/')}/{name}".rstrip("/")

    def entry(self, name: str) -> Entry:
        info = self.filesystem.get_file_info(self.path(name))
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(name)
        return self._entry(info, name)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        start = len(self.path()) + 1
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path(prefix), recursive=True))
        for info in sorted(found, key=lambda info: info.path):
            if info.type == pafs.FileType.File:
                yield self._entry(info, info.path[start:])

    def _entry(self, info: pafs.FileInfo, name: str) -> Entry:
        return Entry(name, info.size or 0, str(info.mtime_ns or self._stamp(info.path)))

    def _stamp(self, path: str) -> Any:
        """Return a stamp of a file, where its store knows no times."""
        handler = getattr(self.filesystem, "handler", None)
        return handler.fs.ukey(path) if handler is not None else ""
