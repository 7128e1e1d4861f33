"""Folders on their way to and from a store."""

from functools import partial
from pathlib import Path

from pyarrow.fs import LocalFileSystem, copy_files

from rasterloom.errors import StorageError, one_line
from rasterloom.storage.store import Store
from rasterloom.utils.private_folders import plain_files
from rasterloom.utils.retry import RetryPolicy

# Of a folder; each request in it is tried again by itself (s3.TRIES).
UPLOADS = RetryPolicy(lambda error: isinstance(error, OSError), tries=3)


def upload(store: Store, folder: Path, name: str) -> None:
    """Copy a folder into a store, under a name of its own.

    Raises:
        StorageError: it failed, also when it was tried again, or a link in the folder leads elsewhere.
    """
    plain_files(folder)
    copy = partial(copy_files, str(folder), store.path(name), LocalFileSystem(), store.filesystem)
    try:
        UPLOADS.call(f"upload of {store.uri(name)}", copy)
    except OSError as error:
        reason = one_line(error)
        raise StorageError(f"{store.uri(name)}: cannot be uploaded: {reason}") from None


def download(store: Store, name: str, folder: Path) -> None:
    """Copy a folder of a store to this machine.

    Raises:
        StorageError: it failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        copy_files(store.path(name), str(folder), store.filesystem, LocalFileSystem())
    except OSError as error:
        reason = one_line(error)
        raise StorageError(f"{store.uri(name)}: cannot be read: {reason}") from None
