"""Is everything here that a run needs? One finding a line, with the way out where something is amiss."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rasterloom.recipe import Recipe, Tokenize
from rasterloom.storage import StorageError
from rasterloom.versions.preflight import check_catalog, check_store
from rasterloom.versions.tables import Corpus

PACKAGES = ("ray", "torch", "deepspeed", "transformers", "diffusers", "pyarrow", "pyiceberg", "duckdb")
LEAST_FREE_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    ok: bool
    what: str


def examine(recipe: Recipe | None) -> list[Finding]:
    """Examine this machine, and the recipe's workspace if there is a recipe."""
    found = [*_python(), *_packages(), _cpus()]
    return found + ([_codec(recipe.tokenize), *_workspace(Corpus.of(recipe))] if recipe else [])


def _python() -> Iterator[Finding]:
    running = ".".join(map(str, sys.version_info[:3]))
    yield Finding(sys.version_info >= (3, 11), f"Python {running} (3.11 or newer is needed)")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(True, f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding(False, f"{name} is missing: pip install -c constraints.txt rasterloom")


def _cpus() -> Finding:
    from rasterloom.train.devices import gpu_names

    gpus = gpu_names()
    return Finding(True, f"{os.cpu_count()} CPUs, {len(gpus)} GPUs{': ' if gpus else ''}{', '.join(gpus)}")


def _codec(config: Tokenize) -> Finding:
    """Load the codec: weights that are missing or another network's show here and not on every worker."""
    from rasterloom.tokenize.codecs import codec_of

    try:
        codec = codec_of(config, "cpu")
    except (ValueError, OSError) as error:
        return Finding(False, f"codec {config.codec}: {error}")
    decoder = "" if codec.can_decode else " (encoder alone: nothing can be decoded back into pictures)"
    return Finding(True, f"codec {config.codec}, weights {codec.digest[:12]}{decoder}")


def _workspace(corpus: Corpus) -> Iterator[Finding]:
    store = corpus.store
    try:
        check_store(store)
        yield Finding(True, f"workspace {store.root} can be written, conditional writes hold")
        check_catalog(corpus)
        yield Finding(True, "the catalog answers")
    except StorageError as error:
        yield Finding(False, str(error))
        return
    if not store.is_s3:
        free = shutil.disk_usage(Path(store.path())).free
        yield Finding(free >= LEAST_FREE_BYTES, f"{free / 2**30:.1f} GiB free (2 GiB and up are good)")
