"""Strangers' text reaches no terminal, log or page as it is: every command is run on hostile rows."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
import tty
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import typer
from PIL import Image

from rasterloom.cli import app
from rasterloom.pipelines.inspection.failures import failures
from rasterloom.recipe.loader import load_recipe
from rasterloom.versions.corpus import Corpus

DRIVER = Path(__file__).parent / "support" / "every_command.py"
CANARY = "canary4711"
# Title, screen, hidden text, a new line, C1, bidi, zero width, a line's end, and markup of rich.
EVIL = (
    "\x1b]0;PWNED\x07\x1b[2J\x1b[8mA\x1b]8;;http://x\x1b\\\r\x08\x7f\x9b2J\u202e\u2066\u200b\u2028"
    " [/] [red]v2[/red] :bomb:"
)
NAME = "ev\x1b]0;PWNED\x07\x9b\u202e\u200b"  # of a file
SIGNED = f"X-Amz-Signature={CANARY}&token={CANARY}&AWSAccessKeyId={CANARY}&width=3"
# What rich itself writes: styles without the hidden one, and how the live view moves the cursor.
OF_RICH = re.compile(r"\x1b\[(?!8m)(?:\d+(?:;\d+)*)?m|\x1b\[\?25[lh]|\x1b\[\d*[ABCDGK]|\r")
# Spelt out here and not taken from the package.
FORBIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
JOB = "raysubmit_evil"
GOOD = "/good/1.jpg"


def jpeg(seed):
    file = io.BytesIO()
    Image.effect_noise((200, 150), 60 + seed).convert("RGB").save(file, "JPEG")
    return file.getvalue()


class Hostile(BaseHTTPRequestHandler):
    """A server that says what it likes: pictures, refusals, and a cluster's dashboard."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body, words, headers = b"", "OK", {}
        status = 200
        if self.path.startswith("/good/"):
            body = jpeg(len(self.path))
        elif self.path.startswith("/robots-tag"):
            body, headers = jpeg(3), {"X-Robots-Tag": "noai \x1b[2J\x9b"}
        elif self.path.startswith("/redirect"):
            status, headers = 302, {"Location": f"http://me:{CANARY}/x@127.0.0.1:1/none\x1b[2J.jpg?{SIGNED}"}
        elif self.path.startswith("/text"):
            body = b"\x1b[2J no image"
        elif self.path.startswith("/api/version"):
            told = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": "s"}
            body = json.dumps(told).encode()
        elif self.path.startswith(f"/api/jobs/{JOB}/logs"):
            body = json.dumps({"logs": f"{EVIL} http://me:{CANARY}/x@h/?{SIGNED}\n"}).encode()
        elif self.path.startswith("/api/jobs"):
            job = {
                "type": "SUBMISSION",
                "submission_id": JOB,
                "status": "FAILED",
                "entrypoint": f"python -m rasterloom run {EVIL}",
                "message": f"{EVIL} http://me:{CANARY}/x@h/?{SIGNED}",
                "metadata": {"rasterloom": "1", "corpus": EVIL},
                "start_time": 1000,
                "end_time": 2000,
            }
            body = json.dumps(job if JOB in self.path else [job]).encode()
        else:
            status, words = 404, f"{EVIL} http://me:{CANARY}/x@h/?{SIGNED}".replace("\r", "") + "y" * 4000
        self.wfile.write(f"HTTP/1.1 {status} {words}\r\n".encode("utf-8", "replace"))
        for name, value in {**headers, "Content-Length": len(body), "Connection": "close"}.items():
            self.wfile.write(f"{name}: {value}\r\n".encode("utf-8", "replace"))
        self.wfile.write(b"\r\n" + body)
        self.close_connection = True

    do_POST = do_PUT = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def hostile_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rows(port):
    at = f"http://127.0.0.1:{port}"
    found = [(f"{at}{GOOD}", "a good one"), (f"{at}/good/22.jpg", f"a caption {EVIL}")]
    found += [
        (url, f"row {number} {EVIL}")
        for number, url in enumerate(
            (
                f"{at}/reason",
                f"{at}/robots-tag",
                f"{at}/redirect",
                f"{at}/text{EVIL}.jpg",
                f"{at}/none.jpg?{SIGNED}",
                f"http://me:{CANARY}@127.0.0.1:{port}/none.jpg",
                f"http://me:{CANARY}/more/{CANARY}@127.0.0.1:{port}/none.jpg",
                f"{at}/proxy?url=https%3A%2F%2Fme%3A{CANARY}%40host%2F%3Fsig%3D{CANARY}",
                f"http://{EVIL}.invalid/x.jpg",
                f"ftp://me:{CANARY}/x@host/{EVIL}.jpg",
                f"{at}/[/]/[red]/x.jpg",
            )
        )
    ]
    return found


def write_recipe(folder, port):
    folder.mkdir()
    urls, captions = zip(*rows(port), strict=True)
    pq.write_table(pa.table({"url": urls, "caption": captions}), folder / f"{NAME}.parquet")
    images = folder / f"images {NAME}"
    images.mkdir()
    (images / f"{NAME}.jpg").write_bytes(jpeg(9))
    (images / f"{NAME}.txt").write_text(f"an image {EVIL}")
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 \x1b[2J")
    (images / "broken.txt").write_text("a broken one")
    recipe = {
        "corpus": "hostile",
        "workspace": "../work",
        "sources": [
            {"path": f"{NAME}.parquet"},
            {"path": images.name, "licence": f"by {EVIL}"},
        ],
        "fetch": {"deadline_s": 8, "retries": 0, "robots": False, "allow_hosts": [f"127.0.0.1:{port}"]},
        "keep": "min_side >= 64",
        "score": ["quality"],
        "caption": [{"name": "again", "field": "caption"}],
        "tokenize": {"codec": "mini", "targets": [64]},
        "run": {"cpus": 1, "min_success": 0},
    }
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(recipe).replace("\x7f", "\\u007f"))  # JSON is YAML
    return file


def commands(shop):
    """Of every command the ways it is called, in an order that works; the first words are its name."""
    recipe, folder = str(shop.recipe), shop.folder
    address = f"http://127.0.0.1:{shop.port}"
    failed = [("explain", recipe, key) for key in shop.failed]
    return [
        ("init", str(shop.recipe.parent / f"{NAME}.parquet"), "--out", str(folder / f"init{NAME}.yaml")),
        ("init", str(shop.recipe.parent), "--out", recipe),
        ("init", f"{NAME}.csv", "--url", EVIL),
        ("fetch", str(shop.recipe.parent / f"{NAME}.parquet"), "--out", str(folder / NAME), "--dry-run"),
        ("fetch", f"{NAME}.csv", "--out", f"out{EVIL}"),
        ("run", recipe, "--until", "tokens"),
        ("run", recipe, "--until", f"step {EVIL}"),
        ("run", recipe, "--until", "tokens", "--log", "json"),
        ("plan", recipe),
        ("plan", recipe, "--format", "json"),
        ("failures", recipe),
        ("failures", recipe, "--by", "host"),
        *(("failures", recipe, "--reason", reason, "--limit", "99") for reason in shop.reasons),
        ("failures", recipe, "--host", f"127.0.0.1:{shop.port}"),
        ("failures", recipe, "--format", "json"),
        *failed,
        ("explain", recipe, shop.failed[0], "--format", "json"),
        *(("explain", recipe, key) for key in shop.kept),
        ("explain", recipe, EVIL),
        ("keep", recipe, "--try", "min_side >= 9999", "--out", str(folder / "try[v2][/].html")),
        ("keep", recipe, "--try", "min_side >= 9999", "--format", "json", "--out", str(folder / "t.html")),
        ("keep", recipe, "--try", f"min_side > '{EVIL}'"),
        ("caption", recipe, "--try", "9", "--out", str(folder / "captions[v2][/].html")),
        ("caption", recipe, "--format", "json", "--out", str(folder / "c.html")),
        ("caption", recipe, "--by", EVIL),
        ("run", recipe, "--retry-captions", EVIL),
        ("serve", recipe, "--host", EVIL),
        ("embeddings", recipe, str(folder / f"emb{NAME}")),
        ("tokenize", recipe, "--target", "96", "--dry-run"),
        *(("tokens", "show", recipe, key) for key in shop.kept),
        ("tokens", "import", f"{NAME}/record.json", "--profile", "movq", "--into", recipe),
        ("train", recipe, "--dry-run"),
        ("sample", recipe, "--prompt", EVIL, "--model", NAME),
        ("evaluate", recipe, "--model", NAME),
        ("report", recipe),
        ("versions", "tag", recipe, "v1"),
        ("versions", "tag", recipe, EVIL),
        ("versions", "branch", recipe, "other"),
        ("versions", "list", recipe),
        ("versions", "list", recipe, "--format", "json"),
        ("versions", "log", recipe),
        ("versions", "log", recipe, "--format", "json"),
        ("versions", "show", recipe),
        ("versions", "show", recipe, "--format", "json"),
        ("versions", "show", recipe, EVIL),
        ("versions", "diff", recipe, "v1", "--html", str(folder / "diff[v2].html")),
        ("versions", "lineage", recipe, "tokens/64"),
        ("versions", "lineage", recipe, shop.failed[0]),
        ("versions", "lineage", recipe, f"http://me:{CANARY}/x@h/{EVIL}"),
        ("versions", "reader", recipe, "pairs", "--for", "polars"),
        ("versions", "reader", recipe, EVIL),
        ("versions", "verify", recipe),
        ("versions", "export", recipe, str(folder / "out[v2]"), "--as", "parquet"),
        ("versions", "push", recipe, EVIL),
        ("versions", "adopt", recipe, "pairs", str(folder / f"{NAME}.parquet")),
        ("versions", "rollback", recipe, "v1"),
        ("report", recipe, "--compare", "v1", "--out", str(folder / "compare[v2][/].html")),
        ("report", recipe, "--compare", f"{EVIL}.yaml"),
        ("versions", "takedown", recipe, "--dry-run", f"{address}/[/]*", f"http://me:{CANARY}/x@h/{EVIL}"),
        ("versions", "takedown", recipe, f"{address}/[/]*", "--why", f"{EVIL} http://me:{CANARY}/x@h/"),
        ("versions", "takedown", recipe),
        ("versions", "takedown", recipe, "--format", "json"),
        ("versions", "delete", recipe, "other"),
        ("versions", "gc", recipe, "--older-than", "0", "--files-older-than", "0", "--dry-run"),
        ("versions", "gc", recipe, "--older-than", EVIL),
        ("doctor", recipe, "--address", address),
        ("submit", recipe, "--dry-run"),
        ("submit", recipe, "--address", address),
        ("jobs", "list", "--all", "--address", address),
        ("jobs", "list", "--all", "--format", "json", "--address", address),
        ("jobs", "follow", JOB, "--address", address),
        ("jobs", "follow", "--address", address),
        ("jobs", "wait", JOB, "--address", address),
        ("jobs", "logs", JOB, "--address", address),
        ("jobs", "logs", f"{EVIL}", "--address", address),
        ("jobs", "stop", JOB, "--address", address),
    ]


def leaves(command, path=()):
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        for name, one in command.commands.items():
            yield from leaves(one, (*path, name))
    else:
        yield " ".join(path)


COMMANDS = sorted(leaves(typer.main.get_command(app.app)))


@dataclass
class Shop:
    folder: Path
    port: int
    recipe: Path
    failed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def printed(arguments, shop, terminal):
    """The bytes that commands write, to a pipe or a terminal, each with its words and exit code."""
    file = shop.folder / "commands.json"
    file.write_text(json.dumps(arguments))
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "PYTHONUNBUFFERED": "1"}
    environment.pop("NO_COLOR", None)
    mine, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        tty.setraw(theirs)  # no \r of the terminal's own
    with subprocess.Popen(
        [sys.executable, DRIVER, file],
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd=shop.folder,
    ):
        os.close(theirs)
        data = b""
        while True:
            try:
                more = os.read(mine, 65536)
            except OSError:  # a terminal's end
                break
            if not more:
                break
            data += more
        os.close(mine)
    parts = re.split(rb"=====command \d+=====\n", data)[1:]
    codes = json.loads(file.with_suffix(".codes.json").read_text())
    return list(zip(arguments, parts, codes, strict=True))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with hostile_server() as port:
        folder = tmp_path_factory.mktemp("hostile")
        yield Shop(folder, port, write_recipe(folder / "recipe", port))


@pytest.fixture(scope="module")
def outputs(shop):
    """What all commands print: terminal or not -> [(arguments, bytes, exit code)]."""
    first = printed([("run", str(shop.recipe))], shop, terminal=True)
    assert first[0][2] == 0, first[0][1].decode(errors="replace")
    loaded = load_recipe(shop.recipe)
    gone = failures(loaded)
    shop.failed = [f.key for f in gone]
    shop.reasons = sorted({f.reason for f in gone})
    keys = Corpus.of(loaded).table("images").scan(selected_fields=("key", "status")).to_arrow().to_pylist()
    shop.kept = [row["key"] for row in keys if row["status"] == "ok" and row["key"] not in shop.failed]
    assert len(shop.failed) >= 10 and len(shop.kept) >= 3
    every = commands(shop)
    before = [c for c in every if "--why" not in c]  # a takedown leaves v1 of no use for the second round
    return {True: first + printed(before, shop, terminal=True), False: printed(every, shop, terminal=False)}


def check(data, terminal=False):
    text = data.decode("utf-8")
    if terminal:
        text = OF_RICH.sub("", text)
    found = FORBIDDEN.search(text)
    around = text[max(0, found.start() - 80) : found.end() + 40] if found else ""
    assert not found, ascii(around)
    assert CANARY not in text, ascii(text[max(0, text.index(CANARY) - 120) :][:200])


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_of_strangers_reaches_the_terminal(outputs, name, terminal):
    mine = [one for one in outputs[terminal] if " ".join(one[0]).startswith(name + " ")]
    assert mine, f"{name} is new: add a case with hostile text to `commands`"
    for arguments, data, _code in mine:
        assert data or "takedown" in arguments, arguments  # there are none in the first round
        check(data, terminal)
        if "json" in arguments and "--format" in arguments:
            for line in data.decode().splitlines():
                json.loads(line)


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_what_was_run_did_run(outputs, terminal):
    """The cases print rows, not only refusals, and no markup or traceback."""
    text = b"".join(data for _, data, _ in outputs[terminal]).decode()
    plain = OF_RICH.sub("", text)
    for arguments, data, _ in outputs[terminal]:
        assert b"Traceback" not in data and b"MarkupError" not in data, (arguments, data[-2500:])
    done = {
        " ".join(a[:2]) if a[0] in ("versions", "tokens", "jobs") else a[0]
        for a, _, code in outputs[terminal]
        if code == 0
    }
    assert done >= {
        "run",
        "plan",
        "failures",
        "explain",
        "keep",
        "caption",
        "report",
        "tokens show",
        "versions takedown",
        "jobs logs",
        "jobs list",
        "submit",
    }
    for words in (
        r"\x1b]0;PWNED",
        r"\u202e",
        "[/] [red]v2[/red] :bomb:",
        "answered 404",
        "try[v2][/].html",
        "compare[v2][/].html",
        "http://…@",
        "X-Amz-Signature=…",
    ):
        assert words in plain, words


def test_pages_and_logs(outputs, shop):
    looked = 0
    for path in (*shop.folder.rglob("*.html"), *shop.folder.rglob("README.md"), *shop.folder.rglob("*.log")):
        text = path.read_text(encoding="utf-8")
        assert CANARY not in text, path
        found = FORBIDDEN.search(text.replace("\t", ""))
        assert not found, (path, ascii(text[max(0, found.start() - 80) : found.end() + 40]))
        looked += 1
    assert looked >= 4
