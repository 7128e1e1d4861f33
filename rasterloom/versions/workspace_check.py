"""Checks of a workspace before any work is done."""

import os
import uuid
from pathlib import Path

from rasterloom.errors import StorageError, StorageUnusable, one_line
from rasterloom.storage.store import Store
from rasterloom.utils.redact import masked
from rasterloom.versions.corpus import Corpus


def check_store(store: Store) -> None:
    """Write, read and delete a small file.

    Raises:
        StorageError: something of it fails, or the store lets a second writer take a name that has a file,
            so that nothing could be published exactly once.
    """
    name = f"preflight-{uuid.uuid4().hex}"
    store.check_bucket()
    try:
        first, second = store.put_if_absent(name, b"1"), store.put_if_absent(name, b"2")
        kept = store.read(name)
        store.delete(name)
    except OSError as error:
        reason = one_line(error)
        raise StorageError(f"the workspace {store.root} cannot be written: {reason}") from None
    if not (first and not second and kept == b"1"):
        raise StorageUnusable(
            f"the workspace {store.root} lies on a server that ignores If-None-Match, so that two writers of "
            f"one name would both win: take another server"
        )


def unwritable(store: Store) -> str:
    """Say why a workspace on a disk cannot be written. It is not touched."""
    if store.is_s3:
        return ""
    path = Path(store.path())
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return ""
    reason = f"no right to write in {there}" if there.is_dir() else f"{there} is no folder"
    return f"the workspace {store.root} cannot be written: {reason}"


def check_catalog(corpus: Corpus) -> None:
    """Ask the catalog for its namespaces.

    Raises:
        StorageError: it cannot be reached or refuses.
    """
    try:
        corpus.with_retries("catalog", lambda: corpus.catalog.list_namespaces())
    except StorageError:  # names the file already
        raise
    except Exception as error:  # each kind of catalog has errors of its own
        reason = one_line(error, limit=300)
        where = dict(corpus.catalog_properties).get("uri", f"in {corpus.store.root}")
        raise StorageError(masked(f"the catalog {where} cannot be used: {reason}")) from None


def check_workspace(corpus: Corpus) -> None:
    """Check store and catalog. StorageError if either cannot be used."""
    check_store(corpus.store)
    check_catalog(corpus)
