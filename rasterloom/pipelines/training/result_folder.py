"""Results of training and sampling steps as local folders."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rasterloom.errors import StorageError
from rasterloom.storage.layout import CHECKPOINTS, MODEL, MODEL_EMA, PROFILES
from rasterloom.storage.store import Store
from rasterloom.storage.transfer import download
from rasterloom.utils.private_folders import private_path, process_folder
from rasterloom.versions.corpus import Corpus

# Gigabytes that no page shows.
HEAVY = tuple(f"{folder}/" for folder in (MODEL, MODEL_EMA, CHECKPOINTS, PROFILES, "events"))


def shown_folder(corpus: Corpus, step: str, fingerprint: str) -> Path:
    """Local folder with a step's small files; of S3 a fresh copy."""
    store, place = corpus.store, corpus.layout.files(step, fingerprint)
    if not store.is_s3:
        return Path(store.path(place))
    copy = process_folder() / "shown" / step.replace("/", "-") / fingerprint
    shutil.rmtree(copy, ignore_errors=True)  # a takedown draws samples anew, an evaluation adds a file
    for name in store.list(place):
        inside = name.removeprefix(f"{place}/")
        if ".." in inside.split("/"):
            raise StorageError(f"{store.uri(name)} leads out of its folder, and is not read")
        if not inside.startswith(HEAVY):
            (copy / inside).parent.mkdir(parents=True, exist_ok=True)
            (copy / inside).write_bytes(store.read(name))
    return copy


@contextmanager
def model_folder(store: Store, model: str) -> Iterator[Path]:
    """Local folder with a model's files, for a time.

    Args:
        model: its folder, absolute or by its name in the store; of S3 it is copied.
    """
    if Path(model).is_absolute() or not store.is_s3:
        yield Path(model) if Path(model).is_absolute() else Path(store.path(model))
        return
    copy = private_path("models", uuid.uuid4().hex)
    try:
        download(store, model, copy)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)
