"""The pages of `rasterloom serve` on a corpus of a million rows: prints a table.

python benchmarks/bench_serve.py [ROWS ...]

The tables are those of bench_report.py. Each address is asked for REPEATS times, through HTTP and with all
that the guard looks at; the table has the median and the worst, and the CPU time of one. The images of a
page come afterwards, six at a time, as a browser asks for them.
"""

import http.client
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode, urlsplit

from bench_report import build

from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.sources import Source
from rasterloom.serve.server import serving

SIZES = (1_000_000,)
REPEATS = 7
RULE = "quality > 0.4 and aesthetic > 0.2 and original_width >= 256"
PAGES = {
    "first page, no filter": ("/images", {}),
    "words in the caption": ("/images", {"text": "number 77"}),
    "words that no caption has": ("/images", {"text": "zebra"}),
    "reason": ("/images", {"reason": "near duplicate"}),
    "two scores": ("/images", {"min.quality": "0.9", "max.clip": "0.2"}),
    "bucket and source": ("/images", {"bucket": "64: 64x64", "source": "list 1"}),
    "words, a score and a rule": ("/images", {"text": "picture", "min.nsfw": "0.5", "passes": RULE}),
    "the last page": ("/images", {"after": str(99 * 2**32 + 9_000)}),
    "counts of a rule": ("/rule", {"rule": RULE}),
}


def serve(folder: str) -> None:
    recipe = Recipe(corpus="bench", workspace=folder, sources=(Source(path="pairs.parquet"),))
    start, cpu = time.perf_counter(), time.process_time()
    with serving(recipe) as served:
        took, cpu = time.perf_counter() - start, time.process_time() - cpu
        thread = threading.Thread(target=served.run)
        thread.start()
        try:
            measure(served.url)
        finally:
            served.server.should_exit = True
            thread.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nopened in {took:.1f} s ({cpu:.1f} s of CPU), {peak:.1f} GiB at the peak\n")


def measure(url: str) -> None:
    parts = urlsplit(url)
    cookie = ask(parts.netloc, f"/?{parts.query}", "")[1]
    print("| page | median, s | worst, s | CPU, s |\n|---|---|---|---|")
    for name, (path, values) in PAGES.items():
        seconds, cpu = [], time.process_time()
        for _ in range(REPEATS):
            start = time.perf_counter()
            page, _ = ask(parts.netloc, f"{path}?{urlencode(values)}", cookie)
            seconds.append(time.perf_counter() - start)
        cpu = (time.process_time() - cpu) / REPEATS
        median, worst = statistics.median(seconds), max(seconds)
        print(f"| {name} | {median:.2f} | {worst:.2f} | {cpu:.2f} |", flush=True)
    page, _ = ask(parts.netloc, "/images", cookie)
    start, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(6) as browser:
        sources = re.findall(r'src="([^"]+/thumbnail[^"]*)"', page)
        list(browser.map(lambda source: ask(parts.netloc, source, cookie), sources))
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"| the {len(sources)} images of a page | {took:.2f} | | {cpu:.2f} |", flush=True)


def ask(address: str, path: str, cookie: str) -> tuple[str, str]:
    """Return the page at a path, and its cookie."""
    connection = http.client.HTTPConnection(address)
    connection.request("GET", path, headers={"Cookie": cookie})
    answer = connection.getresponse()
    assert answer.status in (200, 303), (path, answer.status)
    text = answer.read().decode(errors="replace")
    connection.close()
    return text, (answer.headers["Set-Cookie"] or "").partition(";")[0]


def main() -> None:
    for rows in map(int, sys.argv[1:] or SIZES):
        with tempfile.TemporaryDirectory() as folder:
            build(folder, rows)
            print(f"{rows:,} rows\n", flush=True)
            subprocess.run([sys.executable, __file__, "--serve", folder], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        main()
