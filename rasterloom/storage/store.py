"""File store of a workspace: a local folder or an S3 prefix.

The one that everything rests on is :meth:`Store.put_if_absent`: of any number of writers of one name,
exactly one wins, and readers see all of its bytes or nothing.
"""

import builtins
import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, ClientError

from rasterloom.errors import StorageError
from rasterloom.storage import local_disk, s3
from rasterloom.utils.redact import masked

__all__ = ["Entry", "File", "Store", "UnfinishedUpload", "plain_location"]


def plain_location(uri: str) -> str:
    """Return a location to compare: of a local file its path.

    Writers of Iceberg put one to three slashes after ``file:``, and none of them percent-encodes.
    """
    return "/" + uri.removeprefix("file:").lstrip("/") if uri.startswith("file:") else uri


@dataclass(frozen=True)
class Entry:
    """A file of a store as its listing has it."""

    name: str  # relative to the store's root
    size: int  # bytes
    stamp: str  # changes when the file does: its ETag on S3, on a disk when it was written


@dataclass(frozen=True)
class File:
    """A file of a store."""

    name: str  # relative to the store's root
    size: int  # bytes
    written: datetime  # UTC, by the store's clock


@dataclass(frozen=True)
class UnfinishedUpload:
    """Unfinished multipart upload on S3, which no reader sees."""

    name: str  # relative to the store's root
    id: str
    begun: datetime  # UTC, by the store's clock


@dataclass(frozen=True)
class Store:
    """Tree of files below ``root``; names are relative to it.

    A store is plain data and can be sent to another process; connections are made where it is used.
    """

    root: str  # an absolute folder, or s3://bucket/prefix

    def __post_init__(self) -> None:
        if "://" in self.root and not self.is_s3:
            raise StorageError(f"a workspace is a folder or s3://bucket/prefix, not {masked(self.root)}")
        if self.is_s3 and "@" in self.root.removeprefix("s3://").split("/")[0]:
            raise StorageError(
                f"the workspace {masked(self.root)} has credentials in it: take them out of the recipe, and "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )

    @property
    def is_s3(self) -> bool:
        return self.root.startswith("s3://")

    def uri(self, name: str) -> str:
        """Return the location that Iceberg knows a file by.

        A local path that a URI would have to percent-encode stays a path: some readers decode a ``file:``
        URI and others, such as pyiceberg, do not, while all take a path as it is.
        """
        if self.is_s3:
            return f"{self.root.rstrip('/')}/{name}"
        path = Path(self.root) / name
        return f"file://{path}" if path.as_uri() == f"file://{path}" else str(path)

    def name_of(self, uri: str) -> str:
        """Return the name of a file from its location."""
        if not self.holds(uri):
            raise StorageError(f"{uri} does not lie in the workspace {self.root}")
        return plain_location(uri).removeprefix(self._base).lstrip("/")

    def holds(self, uri: str) -> bool:
        """Tell if a location lies in the store."""
        return plain_location(uri).startswith(self._base)

    @property
    def _base(self) -> str:
        return plain_location(self.uri("")).rstrip("/") + "/"

    @cached_property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system; paths in it are those of :meth:`path`."""
        if not self.is_s3:
            return pafs.LocalFileSystem()
        return s3.filesystem()

    def path(self, name: str = "") -> str:
        """Return the path of a file in :attr:`filesystem`."""
        if self.is_s3:
            return f"{self.root.removeprefix('s3://').rstrip('/')}/{name}".rstrip("/")
        return str(Path(self.root) / name)

    def check_bucket(self) -> None:
        """Raise StorageError if the store's bucket does not exist."""
        if self.is_s3:
            s3.check_bucket(self._s3, self.path().split("/", 1)[0])

    def refusal(self) -> str | None:
        """Return S3's reason to refuse all requests; None if it answers."""
        if not self.is_s3:
            return None
        try:
            s3.get(self._s3, *self._object("rasterloom-is-asking"))
        except FileNotFoundError:
            return None
        except StorageError as error:
            return str(error)
        return None

    def _object(self, name: str) -> tuple[str, str]:
        """Bucket and key of a file on S3."""
        bucket, _, key = self.path(name).partition("/")
        return bucket, key

    def exists(self, name: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(name)).type == pafs.FileType.File)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises: FileNotFoundError."""
        if self.is_s3:
            return s3.get(self._s3, *self._object(name))
        try:
            with self.filesystem.open_input_file(self.path(name)) as file:
                return bytes(file.read())
        except NotADirectoryError:  # a file stands where the workspace should
            raise FileNotFoundError(name) from None

    def list(self, prefix: str) -> list[str]:
        """Return the sorted names of all files below a folder, if any."""
        selector = pafs.FileSelector(self.path(prefix), allow_not_found=True, recursive=True)
        start = len(self.path()) + 1
        infos = self.filesystem.get_file_info(selector)
        return sorted(i.path[start:] for i in infos if i.type == pafs.FileType.File)

    def files(self, prefix: str) -> builtins.list[File]:
        """Return all files below a folder with size and time, if any."""
        selector = pafs.FileSelector(self.path(prefix), allow_not_found=True, recursive=True)
        start = len(self.path()) + 1
        infos = [i for i in self.filesystem.get_file_info(selector) if i.type == pafs.FileType.File]
        return [File(i.path[start:], i.size, i.mtime) for i in infos]

    def entry(self, name: str) -> Entry:
        """Look one file up. Raises: FileNotFoundError, OSError."""
        if not self.is_s3:
            stat = os.stat(self.path(name))
            return Entry(name, stat.st_size, str(stat.st_mtime_ns))
        bucket, key = self._object(name)
        try:
            found = self._s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise FileNotFoundError(name) from None
            raise OSError(f"s3://{bucket}/{key}: {error}") from None
        except BotoCoreError as error:
            raise OSError(f"s3://{bucket}/{key}: {error}") from None
        return Entry(name, found["ContentLength"], found["ETag"].strip('"'))

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Yield all files below a folder in a fixed order.

        One folder is in memory at a time.

        Folders that are reached by a symbolic link are left out, links to files are not.

        Raises:
            OSError: a folder cannot be listed, or S3 cannot be asked.
        """
        return self._s3_entries(prefix) if self.is_s3 else self._local_entries(prefix)

    def _local_entries(self, prefix: str) -> Iterator[Entry]:
        with os.scandir(self.path(prefix)) as found:
            items = sorted(found, key=lambda item: item.name)
        for item in items:
            name = f"{prefix.rstrip('/')}/{item.name}".lstrip("/")
            if item.is_dir(follow_symlinks=False):
                yield from self._local_entries(name)
            elif not item.is_dir():
                try:
                    stat = item.stat()
                except OSError:  # a link that leads nowhere
                    yield Entry(name, 0, "")
                else:
                    yield Entry(name, stat.st_size, str(stat.st_mtime_ns))

    def _s3_entries(self, prefix: str) -> Iterator[Entry]:
        bucket, _, root = self.path().partition("/")
        start = f"{root}/" if root else ""
        below = f"{start}{prefix.strip('/')}/" if prefix.strip("/") else start
        try:
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=below):
                for item in page.get("Contents", ()):
                    if not item["Key"].endswith("/"):  # some tools put an object where they mean a folder
                        name = item["Key"].removeprefix(start)
                        yield Entry(name, item["Size"], item["ETag"].strip('"'))
        except (BotoCoreError, ClientError) as error:
            raise OSError(f"s3://{bucket}/{below}: {error}") from None

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists, atomically; return whether this call did.

        On S3, where the answer to a write may be lost, a file of the very same bytes counts as this call's.
        """
        if self.is_s3:
            return s3.put_if_absent(self._s3, *self._object(name), data)
        with self._beside(name) as (temporary, target):
            temporary.write_bytes(data)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
        return True

    def put(self, name: str, data: bytes) -> None:
        """Write or replace a file atomically."""
        if self.is_s3:
            bucket, key = self._object(name)
            with s3.storage_errors(self.uri(name)):
                self._s3.put_object(Bucket=bucket, Key=key, Body=data)
            return
        with self._beside(name) as (temporary, target):
            temporary.write_bytes(data)
            temporary.replace(target)

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is no error."""
        if self.is_s3:
            bucket, key = self._object(name)
            with s3.storage_errors(self.uri(name)):
                self._s3.delete_object(Bucket=bucket, Key=key)
            return
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(name))

    def uploads(self, prefix: str) -> builtins.list[UnfinishedUpload]:
        """Return the unfinished uploads below a folder; a disk has none."""
        if not self.is_s3:
            return []
        bucket, _, root = self.path().partition("/")
        start = f"{root}/" if root else ""
        found = s3.uploads(self._s3, bucket, f"{start}{prefix}/")
        return [UnfinishedUpload(key.removeprefix(start), id_, begun) for key, id_, begun in found]

    def uploaded(self, upload: UnfinishedUpload) -> int:
        """Return how many bytes of an upload are there."""
        return s3.uploaded(self._s3, *self._object(upload.name), upload.id)

    def abort(self, upload: UnfinishedUpload) -> None:
        """Give an upload up; one that has ended is no error."""
        s3.abort(self._s3, *self._object(upload.name), upload.id)

    def write_parquet(self, name: str, table: pa.Table, **options: Any) -> int:
        """Write a table to a Parquet file; return its size in bytes.

        ``options`` are those of pyarrow's write_table.

        Its pages carry checksums, which ``versions verify`` looks at.
        """
        path, options = self.path(name), {"write_page_checksum": True, **options}
        if self.is_s3:
            pq.write_table(table, path, filesystem=self.filesystem, **options)
        else:
            folder = Path(path).parent
            with local_disk.full_disk_errors(str(folder)):
                folder.mkdir(parents=True, exist_ok=True)
                pq.write_table(table, path, **options)  # which deletes half a file where it fails
        return int(self.filesystem.get_file_info(path).size)

    @contextlib.contextmanager
    def _beside(self, name: str) -> Iterator[tuple[Path, Path]]:
        """Yield a temporary path beside the target, and the target."""
        target = Path(self.path(name))
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        with local_disk.full_disk_errors(str(target.parent)):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield temporary, target
            finally:
                temporary.unlink(missing_ok=True)

    @cached_property
    def _s3(self) -> Any:
        return s3.client()

    def __getstate__(self) -> dict[str, str]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, str]) -> None:
        object.__setattr__(self, "root", state["root"])
