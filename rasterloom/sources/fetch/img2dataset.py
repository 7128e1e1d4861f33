"""Fetching of a shard by img2dataset instead of the own client.

It runs as a program of its own, in an environment of its own if need be (its pins on pandas and OpenCV are
older than ours). What it does not do, it does not do here either: no robots.txt, no limit a host, no byte
cap, and a name may lead anywhere between our look-up and its own. See docs/fetch.md.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from yarl import URL

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import IMAGES, ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.fetch.addresses import SCHEMES, BlockedAddress, Gate
from rasterloom.sources.fetch.checksums import check_hashes
from rasterloom.sources.fetch.opt_out import OptOuts, check_phash, load_opt_outs
from rasterloom.sources.fetch.robots import product_token
from rasterloom.sources.images.decode import decode_image
from rasterloom.sources.images.row import Received, image_columns

HOW = (
    "pip install img2dataset==1.47.0 in an environment of its own, "
    "and name its Python in run.img2dataset_python"
)
STARTS_S = 60.0  # it takes seconds to import
_RUN = "import json, sys; from img2dataset import download; download(**json.load(sys.stdin))"
_VERSION = "from importlib.metadata import version; print(version('img2dataset'))"

# The words of urllib and of img2dataset, the first that fits.
_CLASSES = (
    (r"X-Robots-Tag", ErrorClass.ROBOTS),
    (r"redirect error that would lead to an infinite loop", ErrorClass.TOO_MANY_REDIRECTS),
    (r"HTTP Error 429", ErrorClass.HTTP_429),
    (r"HTTP Error 5\d\d", ErrorClass.HTTP_5XX),
    (r"HTTP Error \d\d\d", ErrorClass.HTTP_4XX),
    (r"timed out", ErrorClass.TIMEOUT),
    (r"CERTIFICATE_VERIFY_FAILED|\[SSL", ErrorClass.TLS),
    (r"Name or service not known|name resolution|nodename nor servname|Errno -[23]\b", ErrorClass.DNS),
    (r"unknown url type", ErrorClass.BLOCKED_SCHEME),
    (r"no host given|control characters|nonnumeric port|InvalidURL|codec can't encode", ErrorClass.BAD_URL),
    (r"IncompleteRead", ErrorClass.INCOMPLETE),
    (r"urlopen error|Remote end closed|reset by peer|BadStatusLine|\bErrno 1\d\d\b", ErrorClass.CONNECT),
    (r"image area too large", ErrorClass.TOO_MANY_PIXELS),
    (r"decoding error|cannot identify|cv2|OpenCV", ErrorClass.BROKEN_IMAGE),
)


def img2dataset_version(python: str | None) -> str:
    """Return the version that a Python has. ValueError, with the way out, if it has none."""
    try:
        done = subprocess.run(
            [python or sys.executable, "-c", _VERSION], capture_output=True, text=True, timeout=STARTS_S
        )
    except OSError as error:
        raise ValueError(f"run.img2dataset_python: {python} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise ValueError(f"fetch.engine: {python or 'this Python'} has no img2dataset: {HOW}")
    return done.stdout.strip()


def class_of(status: str, message: str) -> tuple[ErrorClass, int | None]:
    """Return a failed row's class, and its message's HTTP status, if any."""
    http = re.search(r"HTTP Error (\d\d\d)", message)
    for pattern, error in _CLASSES:
        if re.search(pattern, message):
            return error, int(http[1]) if http else None
    return (ErrorClass.BROKEN_IMAGE if status == "failed_to_resize" else ErrorClass.INTERNAL), None


def fetch_shard_by_img2dataset(
    pairs: pa.Table, config: Fetch, *, shard: int, python: str | None = None
) -> pa.Table:
    """Fetch the images of some pairs by img2dataset, as `fetch_shard` does.

    What can be refused beforehand is: rows without URL or caption, schemes, addresses that are not public,
    the opt-out list. ``original_format``, ``original_bytes`` and ``final_url`` are null, it does not say.

    Raises:
        RuntimeError: the program ended without a result.
    """
    opt_outs = load_opt_outs(config.opt_out)
    rows = [
        {name: pair[name] for name in ("key", "url", "caption", "task")}
        | {"shard": shard, "status": "failed"}
        for pair in pairs.to_pylist()
    ]
    metas = pairs["meta"].to_pylist()
    refused = asyncio.run(_refusals(rows, config, opt_outs))
    for row, failure in zip(rows, refused, strict=True):
        row |= {"attempts": 0} | (_failed(failure) if failure else {})
    asked = [number for number, failure in enumerate(refused) if failure is None]
    found, lost = _download([rows[n] for n in asked], config, python) if asked else ({}, None)
    for place, number in enumerate(asked):
        rows[number] |= {"attempts": 1}
        try:
            if place not in found:
                raise lost or FetchFailure(ErrorClass.INTERNAL, "img2dataset gave no row for it")
            rows[number] |= _columns(found[place], metas[number], config, opt_outs)
        except FetchFailure as failure:
            rows[number] |= _failed(failure)
        except Exception as error:  # a fault of ours; the other rows of the shard shall not pay for it
            rows[number] |= {"error": str(ErrorClass.INTERNAL), "detail": f"{type(error).__name__}: {error}"}
    return pa.Table.from_pylist(rows, schema=IMAGES)


def _failed(failure: FetchFailure) -> dict[str, Any]:
    return {"error": str(failure.error), "detail": failure.detail}


async def _refusals(
    rows: list[dict[str, Any]], config: Fetch, opt_outs: OptOuts
) -> list[FetchFailure | None]:
    gate = Gate(config.allow_hosts)
    try:
        return await asyncio.gather(*(_refusal(row, gate, opt_outs) for row in rows))
    finally:
        await gate.close()


async def _refusal(row: dict[str, Any], gate: Gate, opt_outs: OptOuts) -> FetchFailure | None:
    if not row["url"] or not row["url"].strip():
        return FetchFailure(ErrorClass.BAD_URL, "no URL, or none that is text")
    if not row["caption"] or not row["caption"].strip():
        return FetchFailure(ErrorClass.BAD_CAPTION, "no caption, or none that is text")
    try:
        url = URL(row["url"].strip())
        if url.scheme not in SCHEMES:
            return FetchFailure(
                ErrorClass.BLOCKED_SCHEME, f"{url.scheme}: is not fetched, only http and https are"
            )
        if not url.host:
            return FetchFailure(ErrorClass.BAD_URL, f"{url} names no host")
        if entry := opt_outs.of_url(url):
            return FetchFailure(ErrorClass.OPT_OUT, f"the opt-out list has {entry}")
        gate.check_url(url)
        await gate.resolve(url.host, url.port or 0)
    except ValueError as error:
        return FetchFailure(ErrorClass.BAD_URL, f"not a URL: {error}")
    except BlockedAddress as error:
        return FetchFailure(ErrorClass.BLOCKED_ADDRESS, str(error))
    except OSError as error:
        return FetchFailure(ErrorClass.DNS, f"the name does not resolve: {error}")
    return None


def _download(
    rows: list[dict[str, Any]], config: Fetch, python: str | None
) -> tuple[dict[int, dict[str, Any]], FetchFailure | None]:
    """Run img2dataset on some rows. Return what it says of them by place, and what befell those it lost."""
    with TemporaryDirectory(prefix="rasterloom-img2dataset-") as folder:
        listed = pa.table({"url": [row["url"] for row in rows], "place": range(len(rows))})
        pq.write_table(listed, f"{folder}/urls.parquet")
        lost = _run(_arguments(folder, len(rows), config), len(rows), config, python)
        found: dict[int, dict[str, Any]] = {}
        for file in sorted(Path(folder, "out").glob("*.parquet")):
            with suppress(pa.ArrowInvalid):  # of a file that was not finished
                found |= {row["place"]: row for row in pq.read_table(file).to_pylist()}
        return found, lost


def _arguments(folder: str, rows: int, config: Fetch) -> dict[str, Any]:
    return {
        "url_list": f"{folder}/urls.parquet",
        "input_format": "parquet",
        "output_folder": f"{folder}/out",
        "output_format": "parquet",
        "save_additional_columns": ["place"],
        "number_sample_per_shard": max(rows, 2),
        "processes_count": 1,
        "thread_count": config.concurrency,
        "timeout": config.deadline_s,
        "retries": config.retries,
        "image_size": config.max_side,
        "resize_mode": "no" if config.resize == "none" else config.resize,
        "resize_only_if_bigger": True,
        "skip_reencode": True,
        "encode_quality": config.jpeg_quality,
        "max_image_area": config.max_pixels,
        "compute_hash": "sha256",
        "extract_exif": False,
        "user_agent_token": product_token(config.user_agent),
        "disallowed_header_directives": list(config.opt_out_tags),
    }


def _run(arguments: dict[str, Any], rows: int, config: Fetch, python: str | None) -> FetchFailure | None:
    """Run the program to its end, or to every row's deadline. Say so in that case."""
    rounds = -(-rows // config.concurrency) * (config.retries + 1)
    limit = STARTS_S + rounds * config.deadline_s
    program = subprocess.Popen(
        [python or sys.executable, "-c", _RUN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that its own processes can be ended with it
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"},
    )
    try:
        said, _ = program.communicate(json.dumps(arguments), timeout=limit)
    except subprocess.TimeoutExpired:
        return FetchFailure(ErrorClass.TIMEOUT, f"img2dataset had not ended its shard after {limit:.0f} s")
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
    if program.returncode:
        raise RuntimeError(f"img2dataset failed: {said.strip()[-500:]}. {HOW}")
    return None


def _columns(row: dict[str, Any], meta: str | None, config: Fetch, opt_outs: OptOuts) -> dict[str, Any]:
    if row["status"] != "success":
        message = row["error_message"] or "no message"
        error, http = class_of(row["status"], message)
        return {"http_status": http} | _failed(FetchFailure(error, f"img2dataset: {message}"))
    if row["sha256"] in opt_outs.hashes:
        raise FetchFailure(ErrorClass.OPT_OUT, f"the opt-out list has a file of SHA-256 {row['sha256']}")
    check_hashes(b"", row["sha256"], meta, config)
    # It stores a JPEG of its own: of the original only these are known.
    original = Received(row["sha256"], None, None, row["original_width"], row["original_height"])
    decoded = decode_image(row["jpg"], config)
    check_phash(decoded.phash, opt_outs)
    return {"http_status": 200} | image_columns(decoded, original)
