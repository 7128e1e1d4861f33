"""A tiny profile, token tables and a checkpoint to train from."""

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from rasterloom.recipe.train import Stage, Train
from rasterloom.schema import TOKENS, Profile, bucket_name, pair_key
from rasterloom.train.job import StageJob

pytest.register_assert_rewrite("oracle_check")

PROFILE = Profile(
    name="test",
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
SIZES = ((64, 64), (96, 32), (32, 96), (32, 32))  # pixels


@pytest.fixture
def profile() -> Profile:
    return PROFILE


def sequence(number: int, size: tuple[int, int]) -> tuple[list[int], list[int]]:
    """One sample: bos, a prompt that names a code, sep, an image of that code, sep. (ids, loss_spans)"""
    width, height = size[0] // PROFILE.downsample, size[1] // PROFILE.downsample
    code = number % PROFILE.codebook_size
    prompt = [PROFILE.bos, *([PROFILE.text0 + code] * (1 + number % 5)), PROFILE.sep]
    row = [PROFILE.image0 + code] * width + [PROFILE.eol]
    image = [
        PROFILE.boi,
        PROFILE.grid0 + size[1] // 32,
        PROFILE.grid0 + size[0] // 32,
        *row * height,
        PROFILE.eoi,
    ]
    ids = [*prompt, *image, PROFILE.sep]
    return ids, [len(prompt), len(ids)]


WriteTokens = Callable[..., str]


@pytest.fixture
def write_tokens(tmp_path: Path) -> WriteTokens:
    """Write a Parquet file of so many rows and return its path."""

    def write(
        rows: int, *, first: int = 0, row_group_size: int = 7, sizes: Sequence[tuple[int, int]] = SIZES
    ) -> str:
        records = []
        for number in range(first, first + rows):
            width, height = sizes[number % len(sizes)]
            ids, spans = sequence(number, (width, height))
            records.append(
                {
                    "target": 64,
                    "bucket": bucket_name(width, height),
                    "key": pair_key(f"row {number}", None),
                    "width": width,
                    "height": height,
                    "task": "t2i",
                    "input_ids": ids,
                    "loss_spans": spans,
                    "n_tokens": len(ids),
                    "caption": "",
                }
            )
        path = tmp_path / f"tokens-{first}-{rows}.parquet"
        pq.write_table(pa.Table.from_pylist(records, TOKENS), path, row_group_size=row_group_size)
        return str(path)

    return write


@pytest.fixture
def new_job(tmp_path: Path, write_tokens: WriteTokens, small_checkpoint: str) -> Callable[..., StageJob]:
    """Make a job of a stage, on so many rows, with further fields of `StageJob`."""

    def make(stage: Stage, train: Train, rows: int = 50, **more: Any) -> StageJob:
        files = more.pop("token_files", None) or (write_tokens(rows),)
        given = {"tokens_snapshot": "1", "init": small_checkpoint, "out_dir": str(tmp_path / "out"), **more}
        return StageJob(stage, train, PROFILE, files, None, **given)

    return make


@pytest.fixture
def small_checkpoint(tmp_path: Path) -> str:
    """A Chameleon of one layer, random, as transformers itself writes it (with its image encoder)."""
    from transformers import ChameleonForConditionalGeneration

    from rasterloom.train.model.packed_lm import tiny_config

    config = tiny_config(PROFILE)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 32, 48, 1
    config.num_attention_heads, config.num_key_value_heads = 4, 2
    torch.manual_seed(0)
    folder = tmp_path / "init"
    ChameleonForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def one_rank():
    """A process group of this process alone. One for all tests: DeepSpeed holds on to the first it sees."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def varlen_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """FlashAttention of torch for ragged batches, whose own kernels are a GPU's alone. Returns its calls."""
    from rasterloom.train.model import attention

    varlen, calls = importlib.import_module("torch.nn.attention.varlen"), Counter[str]()

    def attend(q, k, v, bounds):  # type: ignore[no-untyped-def]
        return attention._by_groups(q, k, v, bounds.diff().tolist(), q.shape[2] ** -0.5, 0.0)

    def forward(q, k, v, bounds, _, longest, __, causal, scale, window, *___):  # type: ignore[no-untyped-def]
        calls["forward"] += 1
        assert causal and window == [-1, 0] and longest == max(bounds.diff())
        log_sums = q.new_zeros(q.shape[1], len(q), dtype=torch.float32)
        return attend(q, k, v, bounds).contiguous(), log_sums, torch.zeros(2, dtype=torch.uint64)

    def backward(gradient, q, k, v, out, log_sums, bounds, *_):  # type: ignore[no-untyped-def]
        calls["backward"] += 1
        assert out.shape == gradient.shape and log_sums.shape == (q.shape[1], len(q))

        def gradients():  # type: ignore[no-untyped-def]
            given = [x.detach().requires_grad_() for x in (q, k, v)]
            return torch.autograd.grad(attend(*given, bounds), given, gradient)

        with ThreadPoolExecutor(1) as pool:  # within an operator, autograd is off in its thread
            return pool.submit(gradients).result()

    varlen._varlen_attn.register_kernel("cpu")(forward)
    varlen._varlen_attn_backward.register_kernel("cpu")(backward)
    monkeypatch.setattr(attention, "kernel_for", lambda *_: "torch_varlen")
    return calls
