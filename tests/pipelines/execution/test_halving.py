"""Shards that kill their workers: on a real Ray, whose workers really die."""

import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pytest
import ray.cloudpickle
from PIL import Image
from pydantic import BaseModel
from rich.console import Console

from rasterloom.errors import StepFailed
from rasterloom.pipelines.corpus.steps import corpus_steps
from rasterloom.pipelines.execution import halving
from rasterloom.pipelines.execution.halving import SPLIT_AFTER, TRIES_ALONE
from rasterloom.pipelines.execution.runner import run_step
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.step import Halves, Shard, ShardSpec, ShardStep
from rasterloom.pipelines.workspace import staging
from rasterloom.pipelines.workspace.retries import ask_for_retry
from rasterloom.pipelines.workspace.status import status
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.run import Run
from rasterloom.storage.parquet_io import read_files
from rasterloom.storage.store import Store
from rasterloom.utils.local_ray import start_local_ray, stop_local_ray
from rasterloom.versions.corpus import Corpus

SCHEMA = pa.schema([("key", pa.string()), ("shard", pa.int32()), ("error", pa.string())])
SHARD_ROWS = 25


class Rows(BaseModel):
    folder: str  # of notes on what was done
    count: int = 60
    kills: tuple[int, ...] = ()
    breaks: int = -1


@dataclass(frozen=True)
class Some(ShardSpec):
    start: int
    rows: int


def plan(store, inputs, config):
    starts = range(0, config.count, SHARD_ROWS)
    return [Shard(f"{n:06d}", Some(start, SHARD_ROWS)) for n, start in enumerate(starts)]


def work(store, spec, config):
    keys = range(spec.start, min(spec.start + spec.rows, config.count))
    note = Path(config.folder, "notes")
    with open(note, "a") as notes:
        notes.write(f"{keys.start} {keys.stop}\n")
    if set(keys) & set(config.kills):
        os.kill(os.getpid(), signal.SIGKILL)
    if (
        config.breaks in keys
        and len(keys) < SHARD_ROWS
        and not (broken := Path(config.folder, "broken")).exists()
    ):
        broken.touch()
        raise ValueError("the run stops here")
    return table(keys, None), {"ok": len(keys)}


def killed(store, spec, config, *, detail):
    return table(range(spec.start, spec.start + spec.rows), detail), {"killed_worker": spec.rows}


def table(keys, error):
    rows = [{"key": str(key), "shard": 0, "error": error} for key in keys]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def rows_of(store, spec):
    return min(spec.rows, 60 - spec.start)


def part(spec, start, rows):
    return replace(spec, start=spec.start + start, rows=rows)


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    start_local_ray(num_cpus=2, object_store_memory=100 * 2**20)
    yield
    stop_local_ray()


def run(tmp_path, at_once=2, **config):
    corpus = Corpus("little", Store(str(tmp_path / "work")))
    step = ShardStep(
        "scores",
        Rows(folder=str(tmp_path), **config),
        "1",
        plan=plan,
        work=work,
        schema=SCHEMA,
        table="scores",
        halves=Halves(rows_of, part, killed),
    )
    place = corpus.layout.staging(step.name, step.fingerprint)
    try:
        progress = Progress(Console(file=StringIO()))
        state = run_step(corpus, step, Run(in_flight=at_once), "digest", progress)
    except StepFailed as error:
        return error, staging.published(corpus.store, place), corpus
    assert state.record.counts == Counter(
        {"ok": 60 - len(step.config.kills), "killed_worker": len(step.config.kills)}
    )
    found = read_files(
        corpus.store, [file for p in staging.published(corpus.store, place).values() for file in p.files]
    )
    return found, place, corpus


def deaths_of(tmp_path: Path, kills: tuple[int, ...]) -> list[range]:
    """Rows given to workers beside one that kills them."""
    given = [range(*map(int, line.split())) for line in (tmp_path / "notes").read_text().splitlines()]
    return [rows for rows in given if set(rows) & set(kills)]


@pytest.mark.parametrize(
    "kills", [(31,), (0, 59), pytest.param((25, 26, 49), marks=pytest.mark.nightly)], ids=str
)
def test_the_rows_are_found_and_the_rest_goes_on(tmp_path, kills):
    found, place, corpus = run(tmp_path, kills=kills)
    rows = sorted(found.to_pylist(), key=lambda row: int(row["key"]))
    assert [int(row["key"]) for row in rows] == list(range(60))  # none is lost, none is doubled
    assert {int(row["key"]) for row in rows if row["error"]} == set(kills)
    assert all(f"died {TRIES_ALONE} times at this row alone" in row["error"] for row in rows if row["error"])
    died = Counter((rows.start, rows.stop) for rows in deaths_of(tmp_path, kills))
    assert {count for (start, stop), count in died.items() if stop - start == 1} == {TRIES_ALONE}
    assert {count for (start, stop), count in died.items() if stop - start in (SHARD_ROWS, 10)} == {
        SPLIT_AFTER
    }
    staged = corpus.store.list(place)
    assert len([name for name in staged if name.endswith(".json")]) == 3  # parts are gone
    assert len([name for name in staged if name.endswith(".parquet")]) == 3


def test_a_run_that_goes_on_knows_the_row(tmp_path):
    kills = (30,)  # of 25 to 49; the row is found before row 45 is looked at
    error, published, _ = run(tmp_path, at_once=1, kills=kills, breaks=45)
    assert "the run stops here" in str(error)
    parts = [result for result in published.values() if result.shard.count("-") == 2]
    assert {"killed_worker": 1} in [result.counts for result in parts]
    before = len(deaths_of(tmp_path, kills))
    found, _, _ = run(tmp_path, kills=kills, breaks=45)
    assert sorted(map(int, found["key"].to_pylist())) == list(range(60))
    assert len(deaths_of(tmp_path, kills)) == before  # nobody died again


def test_a_machine_that_kills_everything_ends_the_step(tmp_path, monkeypatch):
    monkeypatch.setattr(halving, "IN_VAIN", 6)
    error, _, _ = run(tmp_path, kills=tuple(range(60)))
    assert isinstance(error, StepFailed)
    assert "of too little memory or a crash in a library" in str(error)
    assert len(deaths_of(tmp_path, tuple(range(60)))) <= 2 * 6 + 1


def deadly_fetch(store, spec, config, *, fetch, folder):
    """Fetch, by a decoder that dies or hangs at some images, as a file says."""
    from rasterloom.sources.fetch import shard
    from rasterloom.sources.images.decode import decode_image

    def decode(data, config):
        how = Path(folder, "deadly").read_text() if data.endswith(b"deadly") else ""
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        while how == "hangs":
            pass
        return decode_image(data, config)

    shard.decode_image, shard.DECODE_S = decode, 3.0
    return fetch(store, spec, config)


@pytest.mark.parametrize(
    ("how", "shard_rows"),
    [("dies", 12), ("hangs", 12), ("dies", 1)],  # 15 shards of a row: eight in each of two workers
    ids=str,
)
def test_an_image_that_ends_its_worker_is_a_row_that_failed(tmp_path, how, shard_rows):
    (tmp_path / "images").mkdir()
    (tmp_path / "deadly").write_text(how)
    for number in range(15):
        file = tmp_path / "images" / f"{number:02d}.png"
        Image.effect_noise((64, 64), 40 + number).save(file)
        file.with_suffix(".txt").write_text(f"image number {number}")
    with open(tmp_path / "images" / "07.png", "ab") as file:
        file.write(b"deadly")
    recipe = Recipe.model_validate(
        {
            "corpus": "little",
            "workspace": str(tmp_path / "work"),
            "sources": [{"path": str(tmp_path / "images"), "kind": "folder"}],
            "fetch": {"shard_rows": shard_rows},
            "keep": "true",
            "tokenize": {"targets": [64]},
        }
    )
    corpus, progress = Corpus.of(recipe), Progress(Console(file=StringIO()))
    pairs, images = corpus_steps(recipe)[:2]
    run_step(corpus, pairs, Run(), "digest", progress)
    deadly = replace(images, work=partial(deadly_fetch, fetch=images.work, folder=str(tmp_path)))
    run_step(corpus, deadly, Run(), "digest", progress)
    rows = sorted(corpus.table("images").scan().to_arrow().to_pylist(), key=lambda row: row["caption"])
    assert len(rows) == 15
    (row,) = [row for row in rows if row["status"] != "ok"]
    shard = 7 // shard_rows
    assert (row["caption"], row["error"], row["shard"]) == ("image number 7", "killed_worker", shard)
    assert "at this row alone" in row["detail"]
    assert status(corpus, images).record.counts == {"killed_worker": 1, "ok": 14}

    (tmp_path / "deadly").write_text("")
    ask_for_retry(corpus, images, ["killed_worker"], print)
    run_step(corpus, corpus_steps(recipe)[1], Run(), "digest", progress)
    again = corpus.table("images").scan().to_arrow().to_pylist()
    assert sorted(row["key"] for row in again) == sorted(row["key"] for row in rows)
    assert {row["status"] for row in again} == {"ok"}
