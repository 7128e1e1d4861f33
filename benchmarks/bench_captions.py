"""Captions: rows through an endpoint by CPU-second, and ids kept for training beside texts tokenized there.

``python benchmarks/bench_captions.py`` asks a stub endpoint in another process, whose time does not count.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rasterloom.captions.caption_shard import caption_shard
from rasterloom.recipe.captions import Captioner
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.recipe.train import Train
from rasterloom.schema import CAPTIONED_TOKENS, TOKENS
from rasterloom.storage.parquet_options import TOKEN_PARQUET
from rasterloom.tokenize.profiles import profile_of
from rasterloom.tokenize.prompt_templates import t2i_prompt
from rasterloom.tokenize.text_tokenizer import text_of, train_text
from rasterloom.train.data.captions import draw_caption
from rasterloom.train.data.token_dataset import TokenSample

STUB = """
import asyncio, json
from aiohttp import web
ANSWER = {"choices": [{"message": {"content": "a cat on a mat"}, "finish_reason": "stop"}],
          "usage": {"prompt_tokens": 300, "completion_tokens": 6}}
async def complete(request):
    await request.read()
    return web.json_response(ANSWER)
async def main():
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
WORDS = [
    "a",
    "grey",
    "cat",
    "sits",
    "on",
    "the",
    "red",
    "mat",
    "beside",
    "an",
    "open",
    "door",
    "while",
    "rain",
    "falls",
    "on",
    "the",
    "wall",
]


def images(rows: int, side: int) -> pa.Table:
    """Images as a shard has them: noise, in JPEG."""
    pixels = np.random.default_rng(0).integers(0, 255, (side // 8, side // 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(buffer, "JPEG", quality=90)
    found = [
        {
            "key": f"{n:032x}",
            "shard": 0,
            "url": "http://example.org/a.jpg",
            "caption": "alt",
            "sha256": f"{n:064x}",
            "format": "jpeg",
            "width": side,
            "height": side,
            "image": buffer.getvalue(),
            "source": "s",
            "meta": "{}",
        }
        for n in range(rows)
    ]
    return pa.Table.from_pylist(found)


def endpoint_rate(rows: int, side: int) -> dict[str, float]:
    """Rows a CPU-second and a second of the process that asks."""
    server = subprocess.Popen([sys.executable, "-c", STUB], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        captioner = Captioner.model_validate(
            {"name": "stub", "endpoint": {"url": url, "model": "stub", "concurrency": 64}}
        )
        table = images(rows, side)
        caption_shard(table.slice(0, 16), captioner)
        cpu, wall = time.process_time(), time.monotonic()
        found, counts = caption_shard(table, captioner)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        assert counts["ok"] == rows == len(found)
    finally:
        server.terminate()
        server.wait()
    size = len(table["image"][0].as_py())
    return {"image_bytes": size, "rows_per_cpu_s": round(rows / cpu), "rows_per_s": round(rows / wall)}


def kept_ids(rows: int, image_tokens: int) -> dict[str, float]:
    """Bytes of a row, and tokens a CPU-second, by ids and texts."""
    rng = np.random.default_rng(0)
    sizes = {"long": 120, "short": 10, "tags": 20}  # words
    texts = {name: [" ".join(rng.choice(WORDS, n)) for _ in range(rows)] for name, n in sizes.items()}
    config = Tokenize(text_vocab=4096)
    encoder = text_of(config, train_text(texts["long"][:200], 4096))[0]
    profile = profile_of("mini", 4096)
    codes = rng.integers(profile.image0, profile.image0 + profile.codebook_size, (rows, image_tokens))

    def ids(name: str, number: int) -> list[int]:
        return encoder.encode(t2i_prompt(512, 512, texts[name][number]))

    plain: list[dict[str, Any]] = [
        {
            "target": 512,
            "bucket": "512x512",
            "key": f"{n:032x}",
            "task": "t2i",
            "input_ids": [profile.bos, 5, 6, profile.sep, *codes[n].tolist()],
            "loss_spans": [4, 4 + image_tokens],
            "n_tokens": 4 + image_tokens,
        }
        for n in range(rows)
    ]
    kept = [
        row | {"captions": [{"name": name, "ids": ids(name, n)} for name in texts], "longest": 5000}
        for n, row in enumerate(plain)
    ]
    tables = {
        "plain": pa.Table.from_pylist(plain, TOKENS),
        "ids": pa.Table.from_pylist(kept, CAPTIONED_TOKENS),
    }
    beside = pa.array([[of[n] for of in texts.values()] for n in range(rows)])
    tables["texts"] = tables["plain"].append_column("texts", beside)
    with tempfile.TemporaryDirectory() as folder:
        bytes_of = {}
        for name, table in tables.items():
            path = Path(folder) / f"{name}.parquet"
            pq.write_table(table, path, **TOKEN_PARQUET)
            bytes_of[name] = path.stat().st_size / rows
    section = {"stages": [{"target": 512, "steps": 1}], "captions": dict.fromkeys(texts, 1)}
    train = Train.model_validate(section)
    samples = [
        TokenSample(
            np.array(row["input_ids"], np.int32),
            np.array([row["loss_spans"]], np.int32),
            tuple((one["name"], np.array(one["ids"], np.int32)) for one in row["captions"]),
        )
        for row in kept
    ]
    started, tokens = time.process_time(), 0
    for sample, row in zip(samples, plain, strict=True):
        tokens += len(draw_caption(sample, row["key"], train, part=0, a_pass=0)[1].input_ids)
    by_ids = tokens / (time.process_time() - started)
    started, tokens = time.process_time(), 0
    for number, sample in enumerate(samples):
        prompt = np.array(ids(list(texts)[number % len(texts)], number), np.int32)
        tokens += len(np.concatenate([prompt, sample.input_ids[4:]]))
    by_texts = tokens / (time.process_time() - started)
    return {
        "bytes_a_row": round(bytes_of["plain"]),
        "more_bytes_by_ids": round(bytes_of["ids"] - bytes_of["plain"]),
        "more_bytes_by_texts": round(bytes_of["texts"] - bytes_of["plain"]),
        "tokens_per_cpu_s_by_ids": round(by_ids),
        "tokens_per_cpu_s_by_texts": round(by_texts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found: dict[str, object] = {
        f"endpoint, {side} px": endpoint_rate(arguments.rows, side) for side in (256, 512, 1024)
    }
    found["captions in training, target 512"] = kept_ids(min(arguments.rows, 600), 4164)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
