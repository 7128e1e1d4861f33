"""Stages `codec`, `sample` and `clip` of benchmarks/gpu.py: images to codes, codes to images, and scores."""

import io
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from gpu_models import drawn_model, profile_of, set_shape
from gpu_record import Bench
from PIL import Image

from rasterloom.schema import IMAGES
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.train.sampling.decoder import CudaGraphs
from rasterloom.train.sampling.sampler import Sampler, cache_bytes

FLOPS = {512: 0.550e12, 768: 1.243e12, 1024: 2.226e12}  # of one image through Chameleon's encoder
PREDICTED = {512: 70, 768: 31, 1024: 17}  # images/s in float32
GOALS = {512: 350, 768: 150, 1024: 85}  # images/s in bf16
CARDS = (80, 40)  # GiB of smaller GPUs, whose memory is simulated


def pixels(count: int, side: int) -> np.ndarray:
    """Images that are not noise: smooth, with an edge."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    images = [
        np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in small
    ]
    return np.stack(images)


def codec(bench: Bench) -> None:
    from bench_codecs import random_weights

    with tempfile.TemporaryDirectory() as folder:
        weights = str(random_weights(Path(folder) / "codec.safetensors"))
        sides = (64,) if bench.rehearses else tuple(FLOPS)
        reference: dict[int, np.ndarray] = {}
        for precision in ("fp32", "tf32", "bf16"):
            found = load_codec("chameleon", weights, precision=precision, device=bench.device.type)
            for side in sides:
                _encodes(bench, found, precision, side)
                codes = found.encode(pixels(2 if bench.rehearses else 8, side))
                same = float((codes == reference.setdefault(side, codes)).mean())
                bench.note("share of codes as in fp32", same, args={"precision": precision, "side": side})
            if precision == "fp32" and not bench.rehearses:
                _out_of_memory(bench, found)


def _encodes(bench: Bench, codec: Any, precision: str, side: int) -> None:
    for batch in (2,) if bench.rehearses else (32, 16, 8):
        codec.at_once = batch
        images = pixels(batch, side)
        bench.reset_peak()
        timed = bench.timed(lambda images=images: codec.encode(images))  # type: ignore[misc]
        best = batch == 32 and precision == "bf16"
        args = {"precision": precision, "side": side, "batch": batch, "peak": bench.peak()}
        goal = (">=", float(GOALS[side])) if best else None
        predicted = PREDICTED.get(side) if precision == "fp32" else None
        rate = batch / timed.seconds
        bench.note("encoded", rate, "images/s", goal=goal, predicted=predicted, timed=timed, args=args)
        if side in FLOPS:
            bench.note("encoder", rate * FLOPS[side] / 1e12, "TFLOP/s", args=args)


@contextmanager
def _card(gib: int) -> Any:
    """A GPU of less memory."""
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _out_of_memory(bench: Bench, codec: Any) -> None:
    """Calls that do not fit: how often that is noticed."""
    images = pixels(32, 1024)
    for gib in CARDS:
        with _card(gib):
            codec.at_once, codec._batches = 32, type(codec._batches)("images")
            retries = torch.cuda.memory_stats()["num_ooms"]
            timed = bench.timed(lambda: codec.encode(images), warm=0, runs=4)
            ooms = torch.cuda.memory_stats()["num_ooms"] - retries
            bench.note("out of memory in 4 calls", ooms, goal=("<=", 2), args={"GiB": gib})
            bench.note(
                "encoded on a smaller GPU", 32 / timed.seconds, "images/s", timed=timed, args={"GiB": gib}
            )


class _Enough(Exception):
    """Raised when enough tokens were drawn."""


def sample(bench: Bench) -> None:
    set_shape(bench)
    profile = profile_of(bench)
    model = drawn_model(bench, bench.device, torch.float32 if bench.rehearses else torch.bfloat16).eval()
    model.set_attn_implementation("sdpa")
    sampler = Sampler(model, profile)
    if bench.device.type == "cuda":
        sampler.capture = CudaGraphs
    side, most = (128, 8) if bench.rehearses else (512, 160)
    prompt = [profile.bos, *[profile.text0 + i for i in range(24)], profile.sep]
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    rate = 1e12 if bench.rehearses else _copy_rate(bench)
    bench.note("floor of a step", 1000 * weights / rate, "ms", predicted=3.0)
    for batch in (1,) if bench.rehearses else (1, 8, 32):
        sampler.batch = batch
        bench.reset_peak()
        seconds = _drawn(bench, sampler, [prompt] * batch, side, most)
        ms = 1000 * seconds / most
        args = {"batch": batch, "side": side, "steps": most}
        bench.note("step", ms, "ms", goal=("<=", 6.0) if batch <= 8 else None, predicted="4-6", args=args)
        tokens = (side // 16) * (side // 16 + 1)
        bench.note("images/s, extrapolated", batch * 1000 / (ms * tokens), args=args)
        held = weights + 2 * batch * (tokens + 30) * cache_bytes(model.config, width=2)
        if bench.device.type == "cuda":
            bench.note("peak / weights and cache", bench.peak() / held, goal=("<=", 1.05), args=args)
    if not bench.rehearses:
        bench.reset_peak()
        sampler.batch = 32
        _drawn(bench, sampler, [prompt] * 32, 1024, 64)
        total = torch.cuda.get_device_properties(0).total_memory
        bench.note("32 at 1024, peak / memory", bench.peak() / total, goal=("<=", 1.0))


def _copy_rate(bench: Bench) -> float:
    """Bytes a second that are read and written."""
    source = torch.empty(2**31, device=bench.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / bench.timed(lambda: target.copy_(source)).seconds


def _drawn(bench: Bench, sampler: Sampler, prompts: list[list[int]], side: int, most: int) -> float:
    """Seconds until so many codes of each image are drawn."""
    wanted = most * len(prompts)

    def enough(done: int, _: int | None) -> None:
        if done >= wanted:
            raise _Enough

    def draw() -> None:
        with suppress(_Enough):
            sampler.sample(prompts, [(side, side)] * len(prompts), cfg=4.0, top_k=2000, on_tokens=enough)

    return bench.timed(draw, warm=1, runs=2).seconds


def clip(bench: Bench) -> None:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from rasterloom.filtering.scorers.clip import ClipScorer
    from rasterloom.filtering.scorers.registry import score_shard

    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14}
    large |= {"num_attention_heads": 16}
    with tempfile.TemporaryDirectory() as folder:
        CLIPModel(CLIPConfig(vision_config=size if bench.rehearses else large)).save_pretrained(folder)
        CLIPImageProcessorPil().save_pretrained(folder)
        scorer = ClipScorer(folder, keep_embeddings=True)
        images = list(pixels(4 if bench.rehearses else 256, 256 if bench.rehearses else 700))
        table = _table(images)
        timed = bench.timed(lambda: score_shard(table, [scorer]), warm=1, runs=2)
        args = {"images": len(images), "threads": scorer.feeders}
        rate, goal = len(images) / timed.seconds, (">=", 600.0)
        bench.note("scored", rate, "images/s", goal=goal, predicted="60-75 before", timed=timed, args=args)
        timed = bench.timed(lambda: scorer.clip.embed_images(images), warm=1, runs=2)
        bench.note("embedded, from arrays", len(images) / timed.seconds, "images/s", timed=timed, args=args)
        _tower(bench, scorer.clip)
        decoded = bench.timed(lambda: _decoded(table), warm=0, runs=1)
        bench.note("decoded on one core", len(images) / decoded.seconds, "images/s", predicted=217)


def _table(images: list[np.ndarray]) -> pa.Table:
    """Rows of a shard with these images as JPEG."""
    rows = []
    for number, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG")
        height, width = image.shape[:2]
        rows.append({"key": str(number), "image": buffer.getvalue(), "width": width, "height": height})
    return pa.Table.from_pylist(rows, schema=IMAGES)


def _tower(bench: Bench, clip: Any) -> None:
    """The image tower alone, in float32 and in bf16."""
    model, _ = clip._model
    side = model.config.vision_config.image_size
    for halves, batch, goal in ((False, 32, None), (True, 256, 1800.0)):
        given = torch.randn(2 if bench.rehearses else batch, 3, side, side, device=model.device)
        clip.halves = halves
        with torch.inference_mode(), clip._products():
            timed = bench.timed(lambda given=given: model.vision_model(given))  # type: ignore[misc]
        args = {"bf16": halves, "batch": len(given)}
        wanted = (">=", goal) if goal else None
        bench.note("tower", len(given) / timed.seconds, "images/s", goal=wanted, timed=timed, args=args)


def _decoded(table: pa.Table) -> None:
    for data in table["image"].to_pylist():
        np.asarray(Image.open(io.BytesIO(data)))
