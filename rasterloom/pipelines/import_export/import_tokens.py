"""Import of Lumina-mGPT's tokens as a version of ``tokens``."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from rasterloom.errors import RecipeError
from rasterloom.pipelines.corpus import token_work
from rasterloom.pipelines.corpus.length_index import lengths_step
from rasterloom.pipelines.corpus.token_steps import pack_step
from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.pipelines.execution.runner import run_step
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import HasResult, Inputs, Shard, ShardResult, ShardSpec, ShardStep
from rasterloom.pipelines.workspace.leases import hold_lease
from rasterloom.pipelines.workspace.retries import worked_on
from rasterloom.pipelines.workspace.status import output_files, status
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.run import Run
from rasterloom.schema import StepKind
from rasterloom.storage.parquet_io import count_of, read_files
from rasterloom.storage.parquet_options import CODES_PARQUET
from rasterloom.storage.store import Store
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.lumina_import import TWICE, import_samples, name_of, read_record
from rasterloom.tokenize.profiles import PROFILES
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.corpus import Corpus

SHARD_ROWS = 5_000  # files in a shard


class ImportAt(token_work.AtTarget):
    """Config of imported tokens: vocabulary profile and file layout."""

    profile: str
    rows_per_file: int = 20_000
    seed: int = 0


@dataclass(frozen=True)
class Imported:
    """Result of an import."""

    corpus: Corpus
    rows: int
    tokens: int
    failures: list[str]  # reasons, each beginning with the file


def import_tokens(
    record: Path, profile: str, into: str, target: int, replace: bool, run: Run, progress: Progress
) -> Imported:
    """Read a record of the reference and its pickles into a corpus.

    Args:
        record: ``record.json`` or ``.jsonl``; see ``tokenize.reference``.
        profile: ``chameleon`` or ``movq``.
        into: a recipe, or WORKSPACE/CORPUS.
        target: resolution that the rows are filed under.
        replace: whether rows of this target that were not imported may give way.

    Raises:
        RecipeError: an argument cannot be used.
        StepFailed: it could not be finished; what is done stays for the next attempt.
    """
    corpus = corpus_of(into)
    if profile not in PROFILES or profile == "mini":
        raise RecipeError("takes chameleon or movq", field="profile", value=profile)
    try:
        bucket_sizes(target)
        entries = read_record(record)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    head = head_snapshot(corpus, corpus.table("tokens"), StepKind.TOKENS.step(target))
    if head and "profile" not in head[1].config and not replace:
        message = f"the corpus {corpus.name} has tokens of its own at target {target}"
        raise RecipeError(message, hint="{replace} replaces them, as a new version")
    steps = import_steps(record.resolve(), entries, ImportAt(target=target, profile=profile))
    progress.plan(corpus.name, (step.name for step in steps), run)
    with hold_lease(corpus, "run", worked_on(steps), progress.say), progress.showing():
        for step in steps:
            before = status(corpus, step)
            if before.done:
                progress.skip(step.name)
                continue
            with progress.step(step.name, before.reason):
                start_ray(run)
                run_step(corpus, step, run, "", progress)
    codes, packed = steps[:2]
    names = [file.name for file in output_files(corpus, codes)]
    failed = read_files(corpus.store, names, ~pc.field("error").is_null(), ["error"])["error"].to_pylist()
    done = status(corpus, packed).record
    assert done is not None
    return Imported(corpus, done.rows, done.counts.get("tokens", 0), sorted(failed))


def corpus_of(into: str) -> Corpus:
    """Open the corpus of a recipe file, or of WORKSPACE/CORPUS."""
    if into.endswith((".yaml", ".yml")):
        return Corpus.of(load_recipe(into))
    workspace, _, name = into.rstrip("/").rpartition("/")
    if not workspace or not name.isidentifier() or name.lower() != name:
        message = "takes a recipe (.yaml), or WORKSPACE/CORPUS such as ./work/art"
        raise RecipeError(message, field="into", value=into)
    return Corpus(name, Store(workspace if "://" in workspace else str(Path(workspace).resolve())))


def import_steps(record: Path, entries: list[tuple[str, Any]], config: ImportAt) -> list[HasResult]:
    """Steps of an import: read the pickles, write token files, index lengths."""
    content = hashlib.blake2b(json.dumps(entries, sort_keys=True).encode(), digest_size=10).hexdigest()
    codes = ShardStep(
        StepKind.CODES.step(config.target),
        config,
        code_version="1",
        identity={"record": content},
        plan=partial(_plan, entries=entries),
        work=partial(_read, folder=str(record.parent)),
        schema=token_work.CODES,
        parquet=CODES_PARQUET,
    )
    packed = pack_step(config, codes, config.profile, config.rows_per_file)
    return [codes, packed, lengths_step(config.target, packed, weighted=False)]


@dataclass(frozen=True)
class ImportSpec(ShardSpec):
    """Some entries of a record, with where they stand in it."""

    entries: list[tuple[str, Any]]


def _plan(
    store: Store, inputs: Inputs, config: ImportAt, *, entries: list[tuple[str, Any]]
) -> list[Shard[ImportSpec]]:
    """Divide entries into shards, and mark those that repeat a file."""
    seen: set[str] = set()
    once: list[tuple[str, Any]] = []
    for where, entry in entries:
        name = name_of(entry)
        once.append((where, {TWICE: name} if name in seen else entry))
        if name:
            seen.add(name)
    return [
        Shard(f"{number:06d}", ImportSpec(once[start : start + SHARD_ROWS]))
        for number, start in enumerate(range(0, len(once), SHARD_ROWS))
    ]


def _read(store: Store, spec: ImportSpec, config: ImportAt, *, folder: str) -> ShardResult:
    rows, failures = import_samples(spec.entries, Path(folder), config.target, PROFILES[config.profile])
    counts = count_of(rows["bucket"]) | ({"failed": failures.num_rows} if failures.num_rows else {})
    return token_work.staged(rows, failures, config.target, config.seed), counts


def target_of(record: Path, profile: str) -> int:
    """Guess a record's target from the bucket of its first image.

    Raises:
        RecipeError: there is none.
    """
    try:
        entries = read_record(record)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    usual = {size: target for target in (1024, 768, 512, 256) for size in bucket_sizes(target)}
    rows, _ = import_samples(entries[:200], record.resolve().parent, 0, PROFILES[profile])
    for width, height in zip(rows["width"].to_pylist(), rows["height"].to_pylist(), strict=True):
        if (width, height) in usual:
            return usual[width, height]
    raise RecipeError("no image in the record shows its target", hint="give {target}")
