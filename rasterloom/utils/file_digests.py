"""Digests of large files, remembered in the user's private folder.

A file is known by its path, device, inode, size and times: a digest is computed again when any of them
differs, and a file that was written within the last moments is not remembered, because another write in the
same tick of the clock would leave all of them as they are.
"""

import hashlib
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

from rasterloom.errors import StorageError
from rasterloom.utils.private_folders import private_folder, remove_old

SETTLED_NS = 2_000_000_000  # since the last change of a file, until its times can be trusted
FOLDER = "digests"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex. Raises OSError."""
    path = path.absolute()
    before = _identity(path)
    known = recalled(f"file {path}")
    if known and known.get("identity") == before:
        return str(known["digest"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    changed = max(before[-2:])
    if _identity(path) == before and time.time_ns() - changed > SETTLED_NS:
        remember(f"file {path}", {"identity": before, "digest": digest})
    return digest


def remember(name: str, what: dict[str, Any]) -> None:
    """Note something under a name. Nothing where the private folder cannot be written."""
    try:
        place = _place(name)
        draft = place.with_name(f"{uuid.uuid4().hex}.new")
        draft.write_text(json.dumps({"name": name, **what}))
        os.replace(draft, place)
        remove_old(place.parent)
    except (OSError, StorageError):
        return


def recalled(name: str) -> dict[str, Any] | None:
    """Return what was noted under a name, or None."""
    try:
        place = _place(name)
        found = json.loads(place.read_text())
        if not isinstance(found, dict) or found.pop("name", None) != name:
            return None
        os.utime(place)  # it is in use
    except (OSError, ValueError, StorageError):
        return None
    return found


def _place(name: str) -> Path:
    key = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return private_folder(FOLDER) / f"{key}.json"


def _identity(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
