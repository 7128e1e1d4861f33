"""Cost of token files: bytes a token by encoding, beside the reference's pickles; the length index.

python benchmarks/bench_tokens.py [--rows 2000] [--index-rows 10000000]
"""

import argparse
import json
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from rasterloom.pipelines.corpus import token_work
from rasterloom.pipelines.corpus.length_index import write_index
from rasterloom.pipelines.corpus.token_steps import group_rows
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import TOKENS
from rasterloom.storage.layout import LENGTHS
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.parquet_options import CODES_PARQUET, TOKEN_PARQUET
from rasterloom.storage.store import Store
from rasterloom.tokenize.conversation import encode
from rasterloom.tokenize.profiles import CHAMELEON, profile_of
from rasterloom.tokenize.prompt_templates import turns
from rasterloom.tokenize.text_tokenizer import JsonText, train_text
from rasterloom.tokenize.unirep import image_length
from rasterloom.train.data.stage_data import split_heldout
from rasterloom.train.data.token_dataset import open_rows

SIDE = 512
CODES = (SIDE // CHAMELEON.downsample) ** 2  # of an image
IMAGE_TOKENS = image_length(SIDE, SIDE, CHAMELEON)
IDS = "input_ids.list.element"
WORDS = ("a", "the", "of", "in", "on", "with", "red", "small", "old", "photo", "house", "dog", "tree", "car")


def samples(rows: int) -> pa.Table:
    """Rows of 512 px with random codes, captions and scores. Captions have ten words by Zipf's law."""
    rng = np.random.default_rng(0)
    vocabulary = [*WORDS] + [bytes(rng.integers(97, 123, rng.integers(3, 10))).decode() for _ in range(1500)]
    words = np.minimum(rng.zipf(1.3, (rows, 10)) - 1, len(vocabulary) - 1)
    captions = [" ".join(vocabulary[word] for word in line) for line in words]
    text = JsonText(train_text(captions, 8000), profile_of("chameleon", 8000).text0)
    side = SIDE // CHAMELEON.downsample
    found = []
    for caption in captions:
        codes = rng.integers(0, CHAMELEON.codebook_size, (side, side))
        said = turns("t2i", width=SIDE, height=SIDE, caption=caption)
        encoded = encode(said, [codes], text.encode, CHAMELEON)
        found.append(
            {
                "target": SIDE,
                "bucket": f"{SIDE}x{SIDE}",
                "key": rng.bytes(16).hex(),
                "width": SIDE,
                "height": SIDE,
                "task": "t2i",
                "input_ids": encoded.input_ids,
                "loss_spans": encoded.loss_spans.ravel(),
                "n_tokens": len(encoded.input_ids),
                "caption": caption,
                "quality": rng.normal(),
                "aesthetic": rng.normal(),
                "clip": rng.normal(),
            }
        )
    return pa.Table.from_pylist(found, TOKENS)


def timed(work: Callable[..., object], *arguments: Any, **options: Any) -> float:
    start = time.process_time()
    work(*arguments, **options)
    return time.process_time() - start


def encodings(table: pa.Table, folder: Path) -> None:
    group = {"row_group_size": group_rows("chameleon", SIDE)}
    bss = {"column_encoding": {IDS: "BYTE_STREAM_SPLIT"}, "use_dictionary": ["bucket", "task"]}
    ways: dict[str, tuple[dict[str, Any], str]] = {
        "ours: bytes apart, zstd 16, pages of 4 MB": (TOKEN_PARQUET, "int32"),
        "bytes apart, zstd 19, pages of 4 MB": ({**TOKEN_PARQUET, "compression_level": 19}, "int32"),
        "bytes apart, zstd 3, pages of 4 MB": ({**TOKEN_PARQUET, "compression_level": 3}, "int32"),
        "bytes apart, zstd 1, pages of 1 MB": ({**bss, "compression": "zstd"}, "int32"),
        "ours, ids as uint16": (TOKEN_PARQUET, "uint16"),
        "bytes apart, gzip": ({**bss, "compression": "gzip"}, "int32"),
        "dictionary, zstd 16": (
            {
                "use_dictionary": ["bucket", "task", IDS],
                "dictionary_pagesize_limit": 1 << 22,
                "compression": "zstd",
                "compression_level": 16,
            },
            "int32",
        ),
        "deltas, zstd 16": (
            {**TOKEN_PARQUET, "column_encoding": {IDS: "DELTA_BINARY_PACKED"}},
            "int32",
        ),
        "plain, zstd 16": ({**TOKEN_PARQUET, "column_encoding": {IDS: "PLAIN"}}, "int32"),
        "pyarrow as it comes (dictionary, snappy)": ({}, "int32"),
    }
    tokens = pa.compute.sum(table["n_tokens"]).as_py()
    rows = len(table)
    print(
        f"{rows:,} samples of {SIDE} px, {CODES} uniformly random codes of 8,192 each, {IMAGE_TOKENS} image "
        f"tokens, {tokens / rows:.0f} tokens with the prompt; limit: 13 bits = 1.625 B"
    )
    for heads in (
        ("row", "B/image", "B/image", "B/code", "bits", "write", "read"),
        ("B", "token", "token*", "", "/id", "rows/s", "rows/s"),
    ):
        print(line("", *heads))
    for name, (options, kind) in ways.items():
        ids = table["input_ids"].cast(pa.list_(pa.field("element", pa.type_for_alias(kind))))
        mine = table.set_column(table.column_names.index("input_ids"), "input_ids", ids)
        path = folder / "tokens.parquet"
        write = timed(pq.write_table, mine, path, **{**group, **options})
        read = timed(pq.read_table, path, columns=["input_ids", "loss_spans"], use_threads=False)
        size, parts = path.stat().st_size / rows, columns(path)
        image = [f"{b / IMAGE_TOKENS:.3f}" for b in (size, size - parts["caption"] / rows)]
        bits = f"{8 * parts['input_ids'] / tokens:.2f}"
        speeds = [f"{rows / seconds:,.0f}" for seconds in (write, read)]
        print(line(name, f"{size:.0f}", *image, f"{size / CODES:.3f}", bits, *speeds))
    size = pickled(table, folder / "reference") / rows
    of_image, of_code = f"{size / IMAGE_TOKENS:.3f}", f"{size / CODES:.3f}"
    print(line("reference: pickle + record.jsonl", f"{size:.0f}", "", of_image, of_code, "", "", ""))
    pq.write_table(table, folder / "tokens.parquet", **group, **TOKEN_PARQUET)
    parts = columns(folder / "tokens.parquet")
    print("* without the column of captions, which the reference does not keep")
    print(
        "ours by column, B a row: "
        + ", ".join(f"{n} {b / rows:.1f}" for n, b in parts.items() if b > rows / 2)
    )
    files = 1_000_000 // Tokenize().rows_per_file + 49 // 2
    print(f"files for a million samples in 49 buckets: ours about {files}; reference 1,000,000 and a record")


def line(name: str, *values: str) -> str:
    return f"{name:42}" + "".join(f" {value:>7}" for value in values)


def columns(path: Path) -> dict[str, int]:
    """Bytes of a file by column."""
    metadata = pq.ParquetFile(path).metadata
    found: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            name = column.path_in_schema.split(".")[0]
            found[name] = found.get(name, 0) + column.total_compressed_size
    return found


def pickled(table: pa.Table, folder: Path) -> int:
    """Write samples as pre_tokenize.py does. Return their bytes, blocks of a disk not counted."""
    (folder / "files").mkdir(parents=True)
    size = 0
    with open(folder / "0-of-1-record.jsonl", "w") as record:
        for number, row in enumerate(table.select(["input_ids", "loss_spans"]).to_pylist()):
            start, end = row["loss_spans"]
            ids = row["input_ids"]
            labels = [-100] * start + ids[start:end]
            path = folder / "files" / f"{number}.pkl"
            data = pickle.dumps({"token": ids, "label": labels, "id": number})
            path.write_bytes(data)
            size += len(data)
            record.write(json.dumps({"file": str(path), "len": len(ids), "id": number}) + "\n")
    return size + (folder / "0-of-1-record.jsonl").stat().st_size


def index(rows: int, folder: Path) -> None:
    """Plan's reading for so many rows: through the index, and through the token files."""
    store, files, rng = Store(str(folder)), [], np.random.default_rng(1)
    each = 20_000
    table = pa.table(
        {
            "target": pa.repeat(pa.scalar(SIDE, pa.int32()), each),
            "bucket": pa.repeat(f"{SIDE}x{SIDE}", each),
            "width": pa.repeat(pa.scalar(SIDE, pa.int32()), each),
            "height": pa.repeat(pa.scalar(SIDE, pa.int32()), each),
            "task": pa.repeat("t2i", each),
            # One id a row: a plan does not read them, and 10 million whole rows are 20 GB.
            "input_ids": pa.array([[0]] * each, TOKENS.field("input_ids").type),
            "loss_spans": pa.array([[0, 1]] * each, TOKENS.field("loss_spans").type),
        }
    )
    for number in range(-(-rows // each)):
        name = f"bench/tokens/{number:05d}.parquet"
        keys = rng.integers(0, 256, (each, 16), np.uint8)
        more = table.append_column("key", pa.array([key.tobytes().hex() for key in keys]))
        more = more.append_column("n_tokens", pa.array(rng.integers(940, 1140, each).astype(np.int32)))
        store.write_parquet(name, more, **TOKEN_PARQUET | {"row_group_size": 962, "compression_level": 1})
        files.append(DataFile(name, each))
    (folder / "index").mkdir()
    quiet = Progress(Console(file=StringIO()))
    quiet.step_started("lengths")
    start = time.perf_counter()
    write_index(store, files, folder / "index" / LENGTHS, quiet)
    made = time.perf_counter() - start
    paths, place = [store.path(file.name) for file in files], folder / "index" / LENGTHS
    size = place.stat().st_size / 2**20
    print(f"\n{len(files) * each:,} rows in {len(files)} files; index of {size:,.0f} MiB")
    print(f"{'made once, from the token files':42} {made:>7.2f} s")
    for name, given in (("by the index", str(place)), ("by the token files", None)):
        start = time.perf_counter()
        found = open_rows(paths, index=given)
        train, _ = split_heldout(found, 0.02)
        took, title = time.perf_counter() - start, f"lengths and held-out rows {name}"
        print(f"{title:42} {took:>7.2f} s  ({len(train):,} to train on)")


def packing(rows: int, folder: Path) -> None:
    """Plan the files of so many rows: what is held of a row is 8 bytes."""
    store, rng, each = Store(str(folder)), np.random.default_rng(2), 100_000
    files = []
    for number in range(-(-rows // each)):
        order = rng.integers(0, 2**63, each).astype(np.uint64)
        buckets = pa.array(np.sort(rng.integers(0, 49, each))).cast(pa.string())
        part = pa.table(
            {
                "bucket": buckets,
                "order": order,
                "n_tokens": pa.repeat(pa.scalar(1090, pa.int32()), each),
                "error": pa.nulls(each, pa.string()),
            }
        )
        name = f"bench/codes/{number:05d}.parquet"
        store.write_parquet(
            name, part, **{k: v for k, v in CODES_PARQUET.items() if k.startswith("compression")}
        )
        files.append(DataFile(name, each))
    config = token_work.TokenizeAt(target=SIDE, tokenize=Tokenize(targets=(SIDE,)))
    before = pa.total_allocated_bytes()
    start = time.perf_counter()
    shards = token_work.plan_pack(
        store, {"codes": files}, config, rows_per_file=config.tokenize.rows_per_file
    )
    took = time.perf_counter() - start
    peak = pa.default_memory_pool().max_memory() - before
    n = len(files) * each
    print(
        f"\nplan the packing of {n:,} rows: {took:.1f} s, {len(shards):,} tasks, "
        f"{peak / n:.0f} B a row at most"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=2000)
    arguments.add_argument("--index-rows", type=int, default=10_000_000)
    options = arguments.parse_args()
    for work, rows in (
        (lambda n, f: encodings(samples(n), f), options.rows),
        (index, options.index_rows),
        (packing, options.index_rows),
    ):
        with tempfile.TemporaryDirectory() as folder:
            work(rows, Path(folder))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
