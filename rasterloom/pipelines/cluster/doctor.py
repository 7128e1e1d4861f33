"""Checks of this machine, a workspace and a cluster."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rasterloom.errors import PluginError, RecipeError, SourceError, StorageError
from rasterloom.filtering.judges import registry as judges
from rasterloom.filtering.scorers import registry as scorers
from rasterloom.filtering.selection import check_keep
from rasterloom.pipelines.cluster import cluster_checks
from rasterloom.pipelines.cluster.cluster_checks import Finding
from rasterloom.pipelines.training.preflight import refusals, too_small_here
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.sources.pairs import check_names
from rasterloom.sources.readers import registry as readers
from rasterloom.tokenize.codecs import load as codecs
from rasterloom.utils import plugins, private_folders
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.workspace_check import check_catalog, check_store

if TYPE_CHECKING:
    from rasterloom.train.devices import Gpu

__all__ = ["Finding", "examine"]

PACKAGES = ("ray", "torch", "deepspeed", "transformers", "diffusers", "pyarrow", "pyiceberg", "duckdb")
LEAST_FREE_BYTES = 2 * 2**30
LEAST_MEMORY_BYTES = 4 * 2**30


def examine(recipe: Recipe | None, address: str | None = None) -> list[Finding]:
    """Check this machine, a workspace with its catalog, and a cluster.

    Nothing is left behind; a recipe's workspace is made if it is a local folder that is not there yet.
    """
    found = [*_python(), *_packages(), *_plugins(), *_machine(), *_gpus(bool(recipe and recipe.run.use_gpu))]
    if recipe:
        corpus = Corpus.of(recipe)
        found += [
            *_sources(recipe),
            *_selection(recipe),
            _codec(recipe.tokenize),
            *_training(recipe, elsewhere=bool(address)),
            *_workspace(corpus),
            *cluster_checks.names(corpus),
            *cluster_checks.clock(corpus),
        ]
    if address:
        found += cluster_checks.cluster(address, recipe)
    return found


def _python() -> Iterator[Finding]:
    running = ".".join(map(str, sys.version_info[:3]))
    yield Finding(sys.version_info >= (3, 11), f"Python {running} (3.11 or newer is needed)")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(True, f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding(False, f"{name} is missing: pip install -c constraints.txt rasterloom")


def _plugins() -> Iterator[Finding]:
    """Findings on the readers, scorers, codecs and judges that other packages bring. Each is loaded."""
    rooms: dict[str, Callable[[plugins.Plugin], object]] = {
        plugins.READERS: readers.load_plugin,
        plugins.SCORERS: scorers.load_plugin,
        plugins.CODECS: codecs.load_plugin,
        plugins.JUDGES: judges.load_plugin,
    }
    for group, load in rooms.items():
        for plugin in plugins.installed(group):
            try:
                plugins.find(group, plugin.name)
                load(plugin)
                yield Finding(True, f"plug-in: {plugin}")
            except PluginError as error:
                yield Finding(False, f"plug-in: {error}")


def _machine() -> Iterator[Finding]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = f"{os.cpu_count()} CPUs, {memory / 2**30:.0f} GiB of memory"
    yield Finding(memory >= LEAST_MEMORY_BYTES, f"{text} (4 GiB and up are good)")
    folder = private_folders.temporary_folder()
    free = shutil.disk_usage(folder).free
    way_out = "" if free >= LEAST_FREE_BYTES else ": make room, or set TMPDIR to a folder that has it"
    yield Finding(not way_out, f"{free / 2**30:.1f} GiB free in {folder}, where Ray and pairs spill{way_out}")
    try:
        private_folders.private_path()
    except StorageError as error:
        yield Finding(False, str(error))


def _gpus(needed: bool) -> Iterator[Finding]:
    from rasterloom.train.devices import gpus  # heavy

    yield from gpu_findings(gpus(), needed, find_spec("flash_attn") is not None)


def gpu_findings(gpus: "list[Gpu]", needed: bool, flash_attn: bool) -> Iterator[Finding]:
    """Findings on GPUs and the kernels that training uses on them."""
    if not gpus:
        yield Finding(True, "no GPU here" + (": run.use_gpu needs those of a cluster" if needed else ""))
        return
    names = ", ".join(f"{gpu.name} ({gpu.memory / 2**30:.0f} GiB)" for gpu in gpus)
    yield Finding(True, f"{len(gpus)} GPUs: {names}")
    old = [gpu.name for gpu in gpus if not gpu.bf16]
    if old:
        yield Finding(False, f"{', '.join(old)}: no bf16, which deepspeed.bf16 needs (A100 and newer)")
    kernel = "flash-attn is there" if flash_attn else "no flash-attn: torch's own kernel is used"
    yield Finding(True, f"{kernel} (pip install 'rasterloom[gpu]', or infra/docker/gpu.Dockerfile)")


def _sources(recipe: Recipe) -> Iterator[Finding]:
    """Check each source of a recipe: its files, its columns, the library that reads it."""
    for source in recipe.sources:
        try:
            readers.check_source(source)
            survey = readers.survey_source(source)
        except (SourceError, PluginError) as error:
            yield Finding(False, f"source: {error}")
            continue
        files = "; ".join(survey.lines()) if survey else "its files are not counted"
        yield Finding(True, f"source {readers.source_name(source)} ({readers.kind_of(source)}): {files}")
    try:
        check_names(recipe.sources)
    except SourceError as error:
        yield Finding(False, str(error))


def _selection(recipe: Recipe) -> Iterator[Finding]:
    """Check the scores, their weights and libraries, and the keep rule."""
    names = ", ".join(score.name for score in recipe.score) or "none"
    try:
        columns = scorers.score_columns(recipe.score)
        yield Finding(True, f"scores: {names}")
        check_keep(recipe.keep, columns)
        yield Finding(True, f"keep: {recipe.keep.rule}")
    except (ValueError, OSError) as error:
        yield Finding(False, f"score and keep: {error}")


def _codec(config: Tokenize) -> Finding:
    """Load the codec, so that wrong weights show before a worker starts."""

    try:
        codec = codecs.codec_of(config, "cpu")
    except (ValueError, OSError) as error:
        return Finding(False, f"codec {config.codec}: {error}")
    decoder = "" if codec.can_decode else " (encoder alone: nothing can be decoded back into images)"
    return Finding(True, f"codec {config.codec}, weights {codec.digest[:12]}{decoder}")


def _training(recipe: Recipe, elsewhere: bool) -> Iterator[Finding]:
    """Check initial weights, packages, and room for the workers."""
    if recipe.train is None:
        return
    try:
        workflow = Workflow(recipe)
        wrong = refusals(recipe, workflow.steps)
        wrong += [] if elsewhere else too_small_here(recipe, workflow.steps)
    except RecipeError as error:
        wrong = [str(error)]
    except (StorageError, OSError):  # a finding on the workspace says it
        return
    for sentence in wrong:
        yield Finding(False, sentence)
    if not wrong:
        yield Finding(
            True, f"training of {', '.join(step.part for step in workflow.stages)}, from {recipe.train.init}"
        )


def _workspace(corpus: Corpus) -> Iterator[Finding]:
    store = corpus.store
    try:
        check_store(store)
        yield Finding(True, f"workspace {store.root} can be written, conditional writes hold")
    except StorageError as error:
        yield Finding(False, str(error))
    try:
        check_catalog(corpus)
        yield Finding(True, "the catalog answers")
    except StorageError as error:
        yield Finding(False, str(error))
    if not store.is_s3 and Path(store.path()).exists():
        free = shutil.disk_usage(Path(store.path())).free
        yield Finding(free >= LEAST_FREE_BYTES, f"{free / 2**30:.1f} GiB free (2 GiB and up are good)")
