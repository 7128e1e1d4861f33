"""Speed of each part of the work on one core, for photographs: prints a table.

python benchmarks/bench_rooms.py
"""

import io
from functools import partial
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from rates import rate

from rasterloom.filtering.scorers.quality import niqe
from rasterloom.recipe.fetch import Fetch
from rasterloom.sources.images.decode import decode_image
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.crop import apply_crop, plan_crop
from rasterloom.tokenize.profiles import MINI
from rasterloom.tokenize.unirep import frame_batch
from rasterloom.train.data.batching import balance, plan_batches


def photograph(side: int) -> Image.Image:
    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    return Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def jpeg(side: int) -> bytes:
    buffer = io.BytesIO()
    photograph(side).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def main() -> None:
    torch.set_num_threads(1)
    codec, config = load_codec("mini"), Fetch()
    rows: list[tuple[str, float, str]] = []
    for side in (256, 1024):
        data = jpeg(side)
        rows.append(
            (f"decode and hash a JPEG of {side} px", rate(partial(decode_image, data, config)), "images/s")
        )
    for side in (128, 512):
        pixels = np.asarray(photograph(side))
        rows.append((f"NIQE at {side} px", rate(partial(niqe, pixels)), "images/s"))
    big, buckets = photograph(1024), bucket_sizes(512)
    plan = plan_crop(big.size, buckets, seed=1)
    rows.append(("crop 1024 px to a bucket of 512", rate(lambda: apply_crop(big, plan)), "images/s"))
    for side in (64, 128, 256):
        batch = np.stack([np.asarray(photograph(side))] * 8)
        codes = codec.encode(batch)
        rows.append((f"mini, encode at {side} px", rate(partial(codec.encode, batch), 8), "images/s"))
        rows.append((f"mini, decode at {side} px", rate(partial(codec.decode, codes), 8), "images/s"))
    codes = np.zeros((32, 64, 64), np.int64)
    rows.append(("frame 512 px of mini codes", rate(lambda: frame_batch(codes, MINI), 32), "sequences/s"))
    lengths = np.random.default_rng(0).integers(900, 1100, 1_000_000)
    planned = plan_batches(lengths, seed=0, epoch=0, batch_tokens=2**20)
    plan_rate = rate(lambda: plan_batches(lengths, seed=0, epoch=0, batch_tokens=2**20), len(lengths))
    rows.append(("plan an epoch of a million rows", plan_rate, "rows/s"))
    rows.append(
        ("balance a batch over 64 ranks", rate(lambda: balance(planned[0], lengths, 64)), "batches/s")
    )
    width = max(len(name) for name, _, _ in rows)
    for name, figure, unit in rows:
        print(f"{name:<{width}}  {figure:>12,.0f} {unit}")


if __name__ == "__main__":
    main()
