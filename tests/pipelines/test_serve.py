"""`rasterloom serve` on a corpus that a run made."""

import html
import http.client
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import quote, urlsplit

import psutil
import pytest
from listening import assert_only_loopback

from rasterloom.pipelines.inspection.explain import explain
from rasterloom.pipelines.inspection.rule_trial import try_rule


@contextmanager
def served(shop):
    """A server's process, and a function that returns status and text of a path."""
    command = [sys.executable, "-m", "rasterloom", "serve", str(shop.recipe_file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        printed = ""
        while "Serving at" not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        parts = urlsplit(re.search(r"http://\S+", printed)[0])
        cookie = ask(parts.netloc, f"/?{parts.query}", "")[2]
        yield process, lambda path: ask(parts.netloc, path, cookie)[:2]
    finally:
        if process.poll() is None:
            process.kill()
        process.stdout.close()
        process.wait()


def ask(address, path, cookie):
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", path, headers={"Cookie": cookie})
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, html.unescape(text), (answer.headers["Set-Cookie"] or "").partition(";")[0]


def test_a_corpus_is_served_until_it_is_told_to_end(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with served(undisturbed) as (process, get):
        assert_only_loopback(psutil.Process(process.pid))
        status, text = get("/")
        assert status == 200 and f"What became of {len(undisturbed.rows('pairs'))} pairs" in text
        assert "tokens/64" in text and text.count("<td>done</td>") >= 6
        row = next(r for r in undisturbed.rows("selection") if r["duplicate_of"])
        status, text = get(f"/images/{row['key']}")
        assert status == 200
        shown = re.sub(r"</?(?:bdi|dd|dt|div|dl)[^>]*>", "", text)
        for chapter in explain(undisturbed.recipe, row["key"]):
            for name, value in chapter.lines:
                assert f"{name}{value}" in shown, (name, value)
        rule = "min_side >= 100 and flatness < 0.9"
        tried = try_rule(undisturbed.recipe, rule)
        status, text = get(f"/rule?rule={quote(rule)}&duplicates=1")
        assert status == 200 and f"<strong>{tried.trial.kept_after}</strong> kept with this rule" in text
        for name, (before, after) in tried.reasons.items():
            assert f"{name}</bdi></th><td>{before}</td><td>{after}</td>" in text
        assert get("/runs")[1].count("No stage was trained yet") == 1
        folder = next(path for path in tmp_path.iterdir() if path.name.startswith("rasterloom-serve-"))
        process.send_signal(signal.SIGTERM)
        printed = process.stdout.read()
        assert process.wait() == 0 and printed == "Stopped.\n" and not folder.exists()


def test_without_images_there_is_nothing_to_serve(workshop, rasterloom):
    code, _, err = rasterloom("serve", workshop.recipe_file)
    assert code == 2 and "there are no images yet: rasterloom run RECIPE --until images" in err


@pytest.mark.parametrize(
    ("options", "said"), [(("--host", "no.such.host.invalid"), "--host"), (("--port", "70000"), "--port")]
)
def test_where_it_cannot_listen(undisturbed, rasterloom, options, said):
    code, _, err = rasterloom("serve", undisturbed.recipe_file, *options)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1
