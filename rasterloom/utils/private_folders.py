"""Temporary folders that only their user can read or write.

They lie in ``rasterloom-<uid>`` below the system's folder for temporary files. Names in it may be
predictable, so that a step finds what it left; every level is checked before it is used.
"""

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from rasterloom.errors import StorageError

MAX_AGE_S = 30 * 24 * 3600  # of what nobody has used since
SOCKET_FOLDER_BYTES = 40  # Ray adds session_<date>_<time>_<us>_<pid>/sockets/plasma_store
_ROOT = re.compile(r"rasterloom-\d+")
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def temporary_folder() -> Path:
    """The system's folder for temporary files, ``TMPDIR`` if that is set."""
    return Path(tempfile.gettempdir())


def _root_in(folder: Path) -> Path:
    return folder / f"rasterloom-{os.geteuid()}"


def private_path(*names: str) -> Path:
    """Return a path in the user's private folder; parents are created.

    Raises:
        StorageError: a level of it, or what lies at the path, is a link or somebody else's.
    """
    path = _root_in(temporary_folder())
    for name in names:
        _make(path)
        path /= name
    if os.path.lexists(path):
        _check(path)
    return path


def private_folder(*names: str) -> Path:
    """Return a private folder, created if missing. Raises: as :func:`private_path`."""
    path = private_path(*names)
    _make(path)
    return path


def make_folder(folder: Path) -> None:
    """Create a folder that :func:`private_path` of another machine may have named.

    Raises: as :func:`private_path`.
    """
    parts = folder.parts
    start = next((n for n, part in enumerate(parts, 1) if _ROOT.fullmatch(part)), None)
    if start is None or not folder.is_absolute():
        folder.mkdir(parents=True, exist_ok=True)
        return
    Path(*parts[: start - 1]).mkdir(parents=True, exist_ok=True)
    for end in range(start, len(parts) + 1):
        _make(Path(*parts[:end]))


def process_folder() -> Path:
    """Return this process's private folder, removed at exit. Raises: as :func:`private_path`."""
    return Path(_process_folder(str(private_folder()), os.getpid()).name)


def socket_folder(name: str) -> Path:
    """Return a private path short enough for Ray's Unix sockets.

    Ray opens the folder itself to everybody; the one above lets nobody through.
    """
    root = _root_in(temporary_folder())
    if len(os.fsencode(root / name)) > SOCKET_FOLDER_BYTES:
        root = _root_in(Path("/tmp"))
    _make(root)
    return root / name


@cache
def _process_folder(root: str, pid: int) -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix=f"process-{pid}-", dir=root, ignore_cleanup_errors=True)


def _make(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    _check(path)


def _check(path: Path) -> None:
    """Raise StorageError for another user's folder; close one's own to others."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        why = "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
    elif found.st_uid != os.geteuid():
        why = f"belongs to another user (uid {found.st_uid})"
    elif found.st_mode & _WRITABLE_BY_OTHERS:
        why = f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    else:
        if found.st_mode & 0o077:
            path.chmod(0o700)
        return
    raise StorageError(f"{path} {why}, and is not used: remove it, or set TMPDIR to a folder of your own")


def plain_files(folder: Path) -> list[Path]:
    """The files anywhere in a folder, sorted.

    Raises:
        StorageError: something in it is a link or no regular file, and would bring in what lies elsewhere.
    """
    found = []
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(here, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found.append(path)
            elif not stat.S_ISDIR(mode):
                what = "a link" if stat.S_ISLNK(mode) else "no regular file"
                raise StorageError(f"{path} is {what}, and is not stored: remove it and run this again")
    return sorted(found)


def remove_old(folder: Path) -> None:
    """Remove what is unused for ``MAX_AGE_S`` and not locked."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError, Timeout):
            if path.suffix == ".lock" or path.lstat().st_mtime > time.time() - MAX_AGE_S:
                continue
            with FileLock(f"{path}.lock", timeout=0):
                remove(path)


def remove(path: Path) -> None:
    """Remove a folder, file or link, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
