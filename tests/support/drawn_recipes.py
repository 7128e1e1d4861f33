"""Recipes drawn by number for the oracle: stages, tables, world sizes, cuts and steps that go wrong."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import ChameleonForConditionalGeneration

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.train import DeepSpeed, Guard, Part, Stage, Train
from rasterloom.schema import TOKENS, Profile
from rasterloom.train.job import PartFiles, StageJob
from rasterloom.train.model.packed_lm import tiny_config

PROFILE = Profile(
    name="oracle",
    downsample=16,
    codebook_size=12,
    bos=0,
    pad=1,
    sep=16,
    boi=18,
    eoi=17,
    eol=19,
    grid0=20,
    image0=4,
    text0=30,
    vocab_size=48,
)
TASKS = ("t2i", "t2i", "t2i", "edit", "vqa", "text")  # as often as they are drawn
SIZES = ((32, 32), (64, 32), (32, 64), (48, 48))


@dataclass(frozen=True)
class Cut:
    """An end before the stage's own: after a step asked for, or by a death within the next."""

    step: int  # steps done since the start of the run
    dies: bool


@dataclass(frozen=True)
class Runs:
    """Settings of a stage's run."""

    worlds: tuple[int, ...]  # of each attempt
    cuts: tuple[Cut, ...]  # of each but the last
    poison: frozenset[int]  # steps of the stage, from 1, that go wrong
    spoilt: str  # "loss" or "gradients"


@dataclass(frozen=True)
class Drawn:
    """A recipe, and how its stages are run."""

    train: Train
    tables: tuple[tuple[int, ...], ...]  # of each stage the number of the table of each part
    runs: tuple[Runs, ...]


def draw(seed: int, number: int) -> Drawn:
    """Draw a recipe. Levels of ZeRO follow each other, all else is drawn."""
    rng = np.random.default_rng([seed, number])

    def one(*values):
        return values[rng.integers(len(values))]

    zero = number % 4
    lora = Lora(rank=one(2, 4), alpha=one(2, 16), vocabulary=one(True, False)) if one(0, 0, 0, 1) else None
    optimizer = "muon" if zero == 0 and lora is None and one(0, 1) else "adamw"
    guard = Guard(on=one("skip", "rollback"), factor=one(None, None, 1.02), window=one(2, 3), limit=100)
    shared = {
        "model": Model(lora=lora, remat=one("none", "none", "full")),
        "deepspeed": DeepSpeed(zero=zero),
        "optimizer": optimizer,
        "seed": int(rng.integers(100)),
        "heldout": one(0.0, 0.15, 0.3),
        "z_loss": one(0.0, 1e-3, 0.05),
        "cfg_drop": one(0.0, 0.3, 1.0),
        "dropout": 0.0,
        "weight_decay": one(0.0, 0.1, 1.0),
        "grad_clip": one(0.1, 0.5, 4.0),
        "micro_batch_tokens": one(None, 60, 90),
        "checkpoint_every": one(2, 3, 50),
        "log_every": one(1, 2, 10),
        "evaluate_every": one(None, 2, 3),
        "guard": guard,
        "trackers": (),
    }
    stages, tables, runs = [], [], []
    freeze = one((), (), ("embeddings",), ("norms",), ("layers.0",), ("head", "*.mlp.up_proj.weight"))
    if lora is not None:
        freeze = one((), ("layers.1",))
    for at in range(one(1, 1, 2, 3)):
        kept = at > 0 and one(True, False)
        stage, of_parts = _stage(one, kept, freeze if kept or one(True, False) else ())
        stages.append(stage)
        freeze = stage.freeze
        tables.append(of_parts)
        runs.append(_runs(rng, one))
    return Drawn(Train(stages=tuple(stages), **shared), tuple(tables), tuple(runs))


def _stage(one, kept, freeze):
    length = one({"steps": one(3, 5)}, {"epochs": one(0.5, 1.0, 1.4)}, {"tokens": one(350, 700)})
    schedule = one(None, "constant", "cosine", "linear")
    lr = one(1e-3, 5e-3)
    mixture, tables = (), (one(0, 1),)
    kind = one("plain", "plain", "weights", "whole", "tasks")
    if kind in ("weights", "whole"):
        weights = (one(1, 3), one(1, 2)) if kind == "weights" else (None, None)
        mixture, tables = tuple(Part(target=64, weight=w) for w in weights), (0, 1)
    elif kind == "tasks":
        mixture = (
            Part(target=64, weight=2, tasks=("t2i",)),
            Part(target=64, weight=1, tasks=("edit", "vqa")),
        )
        tables = (0, one(0, 1))
    stage = Stage(
        target=None if mixture else 64,
        mixture=mixture,
        lr=lr,
        schedule=schedule,
        min_lr=one(None, lr / 10) if schedule in ("cosine", "linear") else None,
        warmup_steps=one(None, 0, 2),
        warmup_share=one(0.005, 0.3),
        batch_tokens=one(130, 200),
        rows_multiple=one(1, 1, 2),
        z_loss=one(None, None, 0.01),
        cfg_drop=one(None, None, 0.5),
        weight_decay=one(None, None, 0.0, 0.5),
        freeze=freeze,
        optimizer_state="keep" if kept else "reset",
        **length,
    )
    return stage, tables


def _runs(rng, one):
    cuts = tuple(Cut(int(rng.integers(1, 4)), dies=one(True, False)) for _ in range(one(0, 0, 1, 1, 2)))
    worlds = tuple(one(1, 1, 1, 2, 2, 3, 4) for _ in range(len(cuts) + 1))
    poison = frozenset({int(rng.integers(2, 6))}) if one(0, 0, 1) else frozenset()
    return Runs(worlds, cuts, poison, one("loss", "gradients"))


def write_table(path, table: int, rows: int = 26) -> str:
    """Write a table of rows of all tasks. None has the images or the text of another."""
    rng = np.random.default_rng([7, table])
    records = [_record(rng, table, number) for number in range(rows)]
    assert len({tuple(r["input_ids"]) for r in records}) == rows
    file = str(path / f"tokens-{table}.parquet")
    pq.write_table(pa.Table.from_pylist(records, TOKENS), file, row_group_size=7)
    return file


def _record(rng, table, number):
    p, task = PROFILE, TASKS[number % len(TASKS)]
    size = (0, 0) if task == "text" else SIZES[rng.integers(len(SIZES))]
    width, height = size[0] // p.downsample, size[1] // p.downsample

    def image():
        codes = rng.integers(p.codebook_size, size=(height, width)) + p.image0
        grid = [token for row in codes.tolist() for token in (*row, p.eol)]
        return [p.boi, p.grid0 + height, p.grid0 + width, *grid, p.eoi]

    def words(most):
        return (rng.integers(15, size=rng.integers(1, most + 1)) + p.text0).tolist()

    if task == "t2i":
        prompt, answer = [p.bos, *words(6), p.sep], [*image(), p.sep]
    elif task == "edit":
        prompt, answer = [p.bos, *words(3), *image(), p.sep], [*image(), p.sep]
    elif task == "vqa":
        prompt, answer = [p.bos, *words(3), *image(), p.sep], [*words(4), p.sep]
    else:
        prompt, answer = [p.bos, *words(6), p.sep], [table + p.text0, *words(9), p.sep]
    ids = prompt + answer
    return {
        "target": 64,
        "bucket": f"{size[0]}x{size[1]}" if task != "text" else "text",
        "key": f"{table}/{number}",
        "width": size[0],
        "height": size[1],
        "task": task,
        "input_ids": ids,
        "loss_spans": [len(prompt), len(ids)],
        "n_tokens": len(ids),
        "caption": "",
    }


def write_checkpoint(folder) -> str:
    """Write a random Chameleon of two layers."""
    config = tiny_config(PROFILE)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 16, 24, 2
    config.num_attention_heads, config.num_key_value_heads = 2, 1
    torch.manual_seed(0)
    ChameleonForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def jobs(drawn: Drawn, folder, init: str, files) -> list[StageJob]:
    """The jobs of a recipe's stages, each from the last model."""
    found: list[StageJob] = []
    for number, tables in enumerate(drawn.tables):
        stage = drawn.train.stages[number]
        before = found[-1] if found else None
        parts = tuple(
            PartFiles(1, weight=part.weight, tasks=part.tasks)
            for _, part in zip(tables, stage.parts, strict=True)
        )
        found.append(
            StageJob(
                stage,
                drawn.train.of_stage(number),
                PROFILE,
                tuple(files[table] for table in tables),
                None,
                tokens_snapshot="1",
                init=str(before.model_dir) if before else init,
                out_dir=str(folder / f"stage-{number + 1}"),
                mixture=parts if stage.mixture else (),
                keep_optimizer_from=before.out_dir if before and stage.optimizer_state == "keep" else None,
            )
        )
    return found


def simple(train: Train, worlds=(1,), cuts=(), poison=(), tables=(0,)) -> Drawn:
    """A recipe by hand, whose stages are all run alike."""
    runs = Runs(tuple(worlds), tuple(cuts), frozenset(poison), "loss")
    return Drawn(train, (tuple(tables),) * len(train.stages), (runs,) * len(train.stages))


def with_stages(drawn: Drawn, **changes) -> Drawn:
    stages = tuple(stage.model_copy(update=changes) for stage in drawn.train.stages)
    return replace(drawn, train=drawn.train.model_copy(update={"stages": stages}))
