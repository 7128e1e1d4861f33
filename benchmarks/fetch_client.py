"""The client of bench_fetch.py, in a process of its own: fetches a list in shards and writes Parquet.

Takes a task as JSON on its input: base, number, out, perhaps shard and settings; prints what it saw as JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import PAIRS, pair_key
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.storage.parquet_options import IMAGE_PARQUET


def main() -> None:
    task = json.load(sys.stdin)
    host = task["base"].split("/")[2]
    defaults = {"max_side": 512, "concurrency": 32, "per_host": 32, "allow_hosts": (host,)}
    defaults["jpeg_chroma"] = task.get("chroma", "4:4:4")
    config = Fetch(**{**defaults, **task.get("settings", {})})
    shard_rows = task.get("shard", 1000)
    seen: dict[str, Any] = {"counts": {}, "memory": [], "seconds": 0.0}
    start = time.monotonic()
    for shard, first in enumerate(range(0, task["number"], shard_rows)):
        urls = [f"{task['base']}{i}.jpg" for i in range(first, min(first + shard_rows, task["number"]))]
        rows = [{"key": pair_key(url, "a"), "url": url, "caption": "a"} for url in urls]
        images = fetch_shard(pa.Table.from_pylist(rows, schema=PAIRS), config, shard=shard)
        pq.write_table(images, task["out"], **IMAGE_PARQUET)
        for error in images["error"].fill_null("ok").to_pylist():
            seen["counts"][error] = seen["counts"].get(error, 0) + 1
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seen["memory"].append((first + len(urls), pages * resource.getpagesize()))
    seen["ended"] = time.time()
    seen["seconds"] = time.monotonic() - start
    if "settings" not in task:
        assert seen["counts"] == {"ok": task["number"]}, seen["counts"]
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
