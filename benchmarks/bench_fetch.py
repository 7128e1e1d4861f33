"""Speed of fetching beside img2dataset, a slow server and a long list: prints tables.

python benchmarks/bench_fetch.py [speed] [slow] [memory] [--img2dataset-python PATH]

`speed`: images per second of CPU time, children counted, from a server on loopback, the same images and the
same resize for both. The time to start is not counted: a figure is the difference of two runs, of few images
and of many, each of which is the least disturbed of several. `make img2dataset` makes the environment that
img2dataset runs in.
"""

import argparse
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
SIDE, QUALITY, CONCURRENCY = 512, 92, 32  # of the stored image, and requests at once
FEW, MANY = 200, 600  # images in the two runs; a tenth of 12 MP
LIMIT_S = 90  # of the slow server's case, after which a client is ended
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"


def photographs(width: int, height: int, number: int) -> list[bytes]:
    """JPEGs of a photograph, each with grain of its own."""
    import skimage

    base = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
    pixels = np.asarray(base.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    made = []
    for seed in range(number):
        grain = np.random.default_rng(seed).integers(-6, 7, (height, width, 1), np.int16)
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(
            buffer, "JPEG", quality=QUALITY
        )
        made.append(buffer.getvalue())
    return made


def cpu_of(
    command: list[str], task: dict[str, Any], env: dict[str, str], limit_s: float | None = None
) -> float:
    """Run a program with a task on its input. Return the CPU seconds of it and its children.

    TimeoutExpired if it takes longer than ``limit_s``; it is ended with its children.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **env},
        start_new_session=True,
    )
    try:
        said, _ = program.communicate(json.dumps(task), limit_s)
    except BaseException:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        raise
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if program.returncode:
        raise SystemExit(f"{command[0]}: {said[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ours(base: str, number: int, env: dict[str, str], chroma: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        task = {"base": base, "number": number, "out": f"{folder}/images.parquet", "chroma": chroma}
        return cpu_of([sys.executable, str(HERE / "fetch_client.py")], task, env)


IMG2DATASET = """
import json, sys, glob
import pyarrow.parquet as pq
from img2dataset import download
task = json.load(sys.stdin)
download(**task["arguments"])
table = pq.read_table(task["arguments"]["output_folder"] + "/00000.parquet", columns=["status"])
if task["number"]:
    assert table["status"].to_pylist() == ["success"] * task["number"], table["status"].value_counts()
"""


def img2dataset(
    python: str, base: str, number: int, env: dict[str, str], timeout: float = 0, limit_s: float | None = None
) -> float:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "urls.txt").write_text("".join(f"{base}{i}.jpg\n" for i in range(number)))
        arguments = {
            "url_list": f"{folder}/urls.txt",
            "output_folder": f"{folder}/out",
            "output_format": "parquet",
            "image_size": SIDE,
            "resize_mode": "keep_ratio_largest",
            "resize_only_if_bigger": True,
            "encode_quality": QUALITY,
            "extract_exif": False,
            "processes_count": 1,
            "thread_count": CONCURRENCY,
            "timeout": timeout or 30,
        }
        task = {"arguments": arguments, "number": 0 if timeout else number}
        env = {**env, "NO_ALBUMENTATIONS_UPDATE": "1"}
        return cpu_of([python, "-c", IMG2DATASET], task, env, limit_s)


def floor(pictures: list[bytes], chroma: str) -> dict[str, float]:
    """Images a CPU second of decode, resize and encode on one thread."""
    import cv2

    cv2.setNumThreads(1)
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{chroma.replace(':', '')}")
    colours = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]

    def opencv(data: bytes) -> None:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        scale = SIDE / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *colours])

    def pillow(data: bytes) -> None:
        image = Image.open(io.BytesIO(data))
        image.load()
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=None)
        image.save(io.BytesIO(), "JPEG", quality=QUALITY, subsampling=chroma)

    rates = {}
    for name, work in (("OpenCV", opencv), ("Pillow", pillow)):
        work(pictures[0])
        start, done = time.process_time(), 0
        while time.process_time() - start < 2:
            work(pictures[done % len(pictures)])
            done += 1
        rates[name] = done / (time.process_time() - start)
    return rates


class Server:
    """`fetch_server.py` in a process of its own, whose time does not count."""

    def __init__(self, pictures: list[bytes], folder: Path, tls: bool, *flags: str) -> None:
        folder.mkdir()
        for number, data in enumerate(pictures):
            (folder / f"{number}.jpg").write_bytes(data)
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "fetch_server.py"), str(folder), *flags, *(["--tls"] if tls else [])],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.base = self.process.stdout.readline().strip()
        self.env: dict[str, str] = {}
        if tls:
            roots = folder / "roots.pem"
            system = Path(SYSTEM_ROOTS).read_text() if Path(SYSTEM_ROOTS).exists() else ""
            roots.write_text(system + (folder / "authority.pem").read_text())
            self.env = {"SSL_CERT_FILE": str(roots)}

    def last_good(self) -> float:
        """Time of the server's last good image, by time.time()."""
        with urllib.request.urlopen(f"{self.base}last") as answer:
            return float(answer.read())

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


def speed(python: str | None, repeats: int, only: str) -> None:
    cases = [
        ("HTTPS, 1 MP", (1024, 1024), 12, True, "4:4:4", 3.0),
        ("HTTP, 1 MP", (1024, 1024), 12, False, "4:4:4", 1.2),
        ("HTTP, 1 MP, 4:2:0", (1024, 1024), 12, False, "4:2:0", 1.2),  # img2dataset stores no other
        ("HTTP, 12 MP", (4000, 3000), 3, False, "4:4:4", 2.5),
    ]
    cases = [case for case in cases if not only or only in case[0]]
    print(f"images per CPU second, to {SIDE} px, JPEG {QUALITY}; best of {repeats}")
    print(f"{'':<18} {'Rasterloom':>10} {'img2dataset':>12} {'times':>6} {'goal':>5}   share of the floor")
    for name, (width, height), distinct, tls, chroma, goal in cases:
        pictures = photographs(width, height, distinct)
        with tempfile.TemporaryDirectory() as folder, Server(pictures, Path(folder, "site"), tls) as server:
            few, many = (FEW, MANY) if width < 2000 else (FEW // 10, MANY // 10)
            took: dict[tuple[str, int], list[float]] = defaultdict(list)
            bare: dict[str, list[float]] = defaultdict(list)
            for _ in range(repeats):
                for number in (few, many):
                    took["ours", number].append(ours(server.base, number, server.env, chroma))
                    if python:
                        seconds = img2dataset(python, server.base, number, server.env)
                        took["theirs", number].append(seconds)
                for kind, rate in floor(pictures, chroma).items():
                    bare[kind].append(rate)
        least = {key: min(seconds) for key, seconds in took.items()}
        mine, theirs = (
            (many - few) / (least[who, many] - least[who, few]) if (who, many) in least else float("nan")
            for who in ("ours", "theirs")
        )
        share = ", ".join(f"{mine / max(r):.2f} of {kind}'s {max(r):.0f}" for kind, r in bare.items())
        print(
            f"{name:<18} {mine:>10.0f} {theirs:>12.0f} {mine / theirs:>6.2f} {goal:>5}   {share}", flush=True
        )


def client(server: "Server", number: int, **task: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        task = {"base": server.base, "number": number, "out": f"{folder}/images.parquet", **task}
        done = subprocess.run(
            [sys.executable, str(HERE / "fetch_client.py")],
            input=json.dumps(task),
            text=True,
            stdout=subprocess.PIPE,
            check=True,
        )
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def slow(python: str | None) -> None:
    """Time of a fetch from a server with faults."""
    deadline, number = 5, 1000
    settings: dict[str, Any] = {"max_side": SIDE, "deadline_s": deadline, "per_host": 64}
    settings["max_bytes"] = 20_000_000
    print(f"\n{number} pictures, 2 % drip, 2 % stall, 2 % are refused, 1 % send 50 MB; deadline {deadline} s")
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(photographs(256, 256, 8), Path(folder, "site"), False, "--trouble") as server,
    ):
        settings["allow_hosts"] = [server.base.split("/")[2]]
        seen = client(server, number, settings=settings)
        late = seen["ended"] - server.last_good()
        print(f"Rasterloom   ended {late:.1f} s after the last good image: {seen['counts']}", flush=True)
        if not python:
            return
        # A deadline that is none: its clock starts anew with every byte. So it is ended after a while.
        try:
            img2dataset(python, server.base, number, {}, timeout=deadline, limit_s=LIMIT_S)
            print(f"img2dataset  ended {time.time() - server.last_good():.1f} s after the last good image")
        except subprocess.TimeoutExpired:
            late = time.time() - server.last_good()
            print(
                f"img2dataset  not ended {late:.1f} s after the last good image, {LIMIT_S} s after its start"
            )


def memory(rows: list[int]) -> None:
    """Resident memory after rows of tiny images, shard by shard. All is in one process."""
    print("\nresident memory of a worker, tiny pictures in shards of 1,000")
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(photographs(32, 32, 4), Path(folder, "site"), False) as server,
    ):
        seen = client(server, max(rows))
        marks = sorted({1000, 2000, 5000, *rows})
        found = {done: size for done, size in seen["memory"] if done in marks}
        print("rows     " + "".join(f"{done:>10,}" for done in found))
        print("MB       " + "".join(f"{size / 1e6:>10.0f}" for size in found.values()))
        print(f"{max(rows) / seen['seconds']:,.0f} rows a second, server included")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="speed, slow, memory; all of them if none is named")
    own = HERE.parent / ".venv-img2dataset" / "bin" / "python"
    parser.add_argument("--img2dataset-python", default=str(own) if own.exists() else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="of the cases of speed, those with this in their name")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 50_000, 200_000])
    options = parser.parse_args()
    parts = options.parts or ["speed", "slow", "memory"]
    if "slow" in parts:
        slow(options.img2dataset_python)
    if "memory" in parts:
        memory(options.rows)
    if "speed" in parts:
        speed(options.img2dataset_python, options.repeats, options.only)


if __name__ == "__main__":
    main()
