"""Verification of files against the hashes that a source lists."""

import hashlib
import json
from typing import Any

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure


def check_hashes(body: bytes, sha256: str, meta: str | None, config: Fetch) -> None:
    """Check a file by its pair's columns ``fetch.md5`` and ``fetch.sha256``.

    Args:
        sha256: of ``body``, in hex.
        meta: the pair's other columns as JSON, ``pairs.meta``. A pair without a hash is not checked.

    Raises:
        FetchFailure: HASH_MISMATCH, also for a hash that is none.
    """
    if not meta or not (config.md5 or config.sha256):
        return
    columns: dict[str, Any] = json.loads(meta)
    for kind, column in (("md5", config.md5), ("sha256", config.sha256)):
        expected = columns.get(column) if column else None
        if expected in (None, ""):
            continue
        found = sha256 if kind == "sha256" else hashlib.md5(body, usedforsecurity=False).hexdigest()
        if str(expected).strip().lower() != found:
            detail = f"{kind} is {found}, the source's {column} says {expected}"
            raise FetchFailure(ErrorClass.HASH_MISMATCH, detail)
