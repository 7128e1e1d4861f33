"""What a run shows while it goes on: the live view, lines, JSON, the summary, the cost."""

import json
import threading
import time
from contextlib import contextmanager
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rasterloom.pipelines.progress.counts import (
    Figures,
    InFlight,
    Lost,
    Note,
    ShardPlan,
    Unit,
    Workers,
)
from rasterloom.pipelines.progress.live_view import frame
from rasterloom.pipelines.progress.log_lines import where_at
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.progress.run_state import State, StepState
from rasterloom.pipelines.step import Shard, ShardSpec
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.recipe.price import Price
from rasterloom.recipe.run import Run
from rasterloom.utils.formatting import clock, usd
from rasterloom.versions.record import Record

STEPS = ("pairs", "images", "scores", "selection")
SHARDS = [Shard(f"{n:02d}", ShardSpec(), rows=100) for n in range(10)]
OUTCOMES = {"ok": 90, "timeout": 6, "http_4xx": 3, "dns": 1}


def done(shard, counts=OUTCOMES):
    return Published(shard.name, {}, sum(counts.values()), 5_000_000, counts, 30.0, shard.digest)


def on(width=120, as_json=False, height=30, **options):
    console = Console(file=StringIO(), width=width, height=height, **options)
    return Progress(console, as_json), console


@contextmanager
def at_images(progress, shards=4):
    """A run whose first step was done before and whose second has so many of ten shards done."""
    run = Run.model_validate({"price": {"cpu": 0.6, "gpu": 3}})
    progress.plan("photos", STEPS, run)
    progress.skip("pairs")
    with progress.step("images", "new") as step:
        progress.counted(ShardPlan(SHARDS, [], 2.0, 1.0))
        for number in range(shards):
            progress.counted(InFlight([shard.id for shard in SHARDS[number:]][:4], 2))
            progress.counted(done(SHARDS[number]))
        progress.counted(InFlight([shard.id for shard in SHARDS[shards:]][:4], 2))
        yield step


def lines_of(progress, console):
    """A frame as lines of text."""
    before = len(console.file.getvalue())
    console.print(frame(progress.run, console, time.monotonic()))
    return console.file.getvalue()[before:].splitlines()


@pytest.fixture
def at_once(monkeypatch):
    """No pause between two lines, nor between two looks at the time that is left."""
    for name in ("log_lines.EVERY_S", "log_lines.SHARE", "step_clock.ETA_EVERY_S"):
        monkeypatch.setattr(f"rasterloom.pipelines.progress.{name}", 0.0)


def test_a_frame_shows_every_step_and_all_of_the_running_one(at_once):
    progress, console = on(120)
    with at_images(progress):
        progress.counted(Lost())
        lines = lines_of(progress, console)
    assert lines[0].startswith("photos  1 of 4 steps")
    signs = [line.split()[:2] for line in lines if line.split()[1:] and line.split()[1] in STEPS]
    assert signs == [["=", "pairs"], ["▶", "images"], ["·", "scores"], ["·", "selection"]]
    text = " ".join(lines)
    for words in (
        "done before",
        "4 of 10 shards",
        " left, ",
        "400 rows",
        "90.0% ok, timeout 24, http_4xx 12, dns 4",
        "2 of 2 workers busy",
        "1 lost and done again",
        "$0.14",  # 4 shards of 30 s, of 2 CPUs at 0.6 and a GPU at 3 dollars an hour
    ):
        assert words in text, (words, lines)


@given(st.integers(20, 200), st.integers(3, 40), st.integers(1, 60))
def test_a_frame_fits_every_terminal(width, height, steps):
    progress, console = on(width, height=height)
    progress.plan("photos", [f"step-{n}" for n in range(steps)], Run())
    for n in range(steps // 2):
        progress.skip(f"step-{n}")
    with progress.step(f"step-{steps // 2}", "new"):
        progress.counted(ShardPlan(SHARDS, [done(SHARDS[0])], 1.0, 0.0))
        lines = lines_of(progress, console)
    assert all(len(line.rstrip()) <= width for line in lines)
    assert any(f"step-{steps // 2}"[: width - 3] in line for line in lines)
    if height > 10:
        assert len(lines) <= height


def test_a_terminal_is_left_as_it_was_whatever_ends_the_run():
    progress, console = on(80, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), progress.showing(), at_images(progress):
        raise KeyboardInterrupt
    progress.ended(["images"])
    written = console.file.getvalue()
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert "images (stopped at 4 of 10 shards)" in written.split("\x1b[?25h")[1]


def test_words_beside_the_live_view_do_not_lock_it_up(monkeypatch):
    monkeypatch.setattr("rasterloom.pipelines.progress.live_view.FRAMES_PER_S", 2000)
    progress, console = on(80, force_terminal=True)

    def work():
        with progress.showing(), at_images(progress):
            for number in range(300):
                progress.say(f"word {number}")
                progress.counted(InFlight([SHARDS[5].id], 2))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive() and "word 299" in console.file.getvalue()


def test_a_step_that_fails_says_why_in_json():
    progress, console = on(as_json=True)
    with pytest.raises(ValueError), progress.showing(), at_images(progress):
        raise ValueError("the disk\nis full")
    last = json.loads(console.file.getvalue().splitlines()[-1])
    assert (last["event"], last["state"], last["note"]) == ("end", "stopped", "the disk is full")


def test_what_a_step_cost_is_what_its_workers_held():
    price, step = Price(cpu=0.6, gpu=3.0), StepState("train/1-64")
    step.begin(100.0)
    step.count(Workers(4, 2.0, 1.0), 100.0)
    assert step.usd(price, 1000.0) == pytest.approx(4 * 900 / 3600 * (2 * 0.6 + 3))
    step.count(Workers(2), 1000.0)  # two are lost
    step.end(State.DONE, 2000.0)
    spent = (4 * 900 + 2 * 1000) / 3600 * (2 * 0.6 + 3)
    assert step.usd(price, 2000.0) == pytest.approx(spent) == step.usd(price, 9000.0)
    assert (step.workers, step.clock.seconds(9000.0)) == (2, 1900.0)


def test_shards_that_are_lost_are_begun_again_and_not_paid_twice():
    step = StepState("images")
    step.begin(0.0)
    step.count(ShardPlan(SHARDS[:2], [], 1.0, 0.0), 0.0)
    ids = [shard.id for shard in SHARDS[:2]]
    step.count(InFlight(ids, 1), 0.0)
    assert (step.workers, step.clock.shards.seconds_at_work(10.0)) == (1, 10.0)
    step.count(InFlight(ids[1:], 1), 10.0)  # the first was lost
    step.count(InFlight(ids[::-1], 1), 12.0)
    assert (step.workers, step.clock.shards.seconds_at_work(12.0)) == (1, 2.0)
    step.count(done(SHARDS[1]), 13.0)
    step.count(InFlight(ids[:1], 1), 13.0)
    assert step.eta_s(13.0) is not None and step.usd(Price(cpu=3600.0), 13.0) == pytest.approx(30.0)


def test_units_that_are_not_shards_are_known_by_the_pace_of_this_run():
    step = StepState("train/1-64")
    step.begin(0.0)
    step.advance(501, 1000, 60.0)  # it goes on from step 500; the workers took a minute to start
    assert step.eta_s(60.0) is None
    step.advance(601, 1000, 110.0)
    assert step.eta_s(111.5) == pytest.approx(51.5 / 100 * 399)


def test_a_training_step_shows_its_figures_and_its_note_until_it_advances(at_once):
    progress, console = on(200)
    progress.plan("photos", ["train/1-64"], Run())
    with progress.showing(), progress.step("train/1-64", "new"):
        progress.counted(Workers(2, 1.0, 1.0))
        progress.counted(Unit("steps"))
        progress.counted(Note("workers start"))
        progress.counted(Figures({"loss": 5.25, "tokens_per_s": 1200.0}))
        progress.advanced(3, 20)
    first, second = [line for line in console.file.getvalue().splitlines() if "train/1-64:" in line]
    assert first == "  train/1-64: workers start, 2 workers"
    assert second == "  train/1-64: 3 of 20 steps, loss 5.250, 1,200 tokens/s, 2 workers"


def test_what_begins_next_ends_what_ran(at_once):
    """As the parts of an evaluation do, which no recipe names as steps."""
    progress, _ = on()
    progress.step_started("sample", 100, "tokens")
    progress.advanced(40)
    progress.step_started("loss")
    assert [step.state for step in progress.run.steps.values()] == [State.DONE, State.RUNNING]
    progress.step_ended(note="over")
    assert progress.run.steps["loss"].note == "over" and progress.run.steps["sample"].done == 40


def test_json_is_an_object_a_line_with_names_that_stay(at_once):
    progress, console = on(as_json=True)
    with progress.showing(), at_images(progress) as step:
        progress.say("images waits for a node")
        step.result(Record("images", "f", "1", {}, {}, rows=400, n_bytes=9), "in 1.0 s")
    progress.ended(["images"])
    told = [json.loads(line) for line in console.file.getvalue().splitlines()]
    assert [line["event"] for line in told][:2] == ["end", "step"]
    assert [line["event"] for line in told][-3:] == ["note", "end", "over"]
    assert all({"time", "event", "corpus"} <= line.keys() for line in told)
    *_, last = (line for line in told if line["event"] == "progress")
    assert last["step"] == "images" and (last["shards_done"], last["shards_total"]) == (4, 10)
    assert (last["rows"], last["ok_share"], last["workers"]) == (400, 0.9, 2)
    assert last["outcomes"] == {"dns": 4, "http_4xx": 12, "ok": 360, "timeout": 24}
    assert last["eta_s"] >= 0 and last["cost_usd"] == pytest.approx(0.14, abs=0.01)
    assert told[-1]["ran"] == ["images"] and told[-2]["state"] == "done"


def test_lines_say_the_same_in_words(at_once):
    progress, console = on(200)
    with progress.showing(), at_images(progress) as step:
        step.result(Record("images", "f", "1", {}, {}, rows=400, n_bytes=20_000_000), "400 rows: ok 360")
    progress.ended(["images"])
    text = console.file.getvalue()
    assert "pairs      done before, nothing to do\nimages     new\n" in text
    assert "  images: 4 of 10 shards, 0:00 left, 400 rows" in text
    assert "90.0% ok, timeout 24, http_4xx 12, dns 4, 2 of 2 workers busy, $0.1400" in text
    assert where_at(text.split("           400 rows")[0]) == "images 4 of 10 shards, 0:00 left"
    summary = text.splitlines()[-3:]
    assert summary[0].split()[:5] == ["step", "rows", "in", "rows", "out"]
    assert summary[1].split()[:5] == ["images", "400", "360", "20.0", "MB"]
    assert "$0.1400" in summary[1] and "timeout 24, http_4xx 12, dns 4" in summary[1]


def test_a_line_that_says_nothing_new_is_a_rare_sign_of_life(at_once, monkeypatch):
    for seldom, most in ((60.0, 1), (0.0, 9)):
        monkeypatch.setattr("rasterloom.pipelines.progress.log_lines.SELDOM_S", seldom)
        progress, console = on()
        with at_images(progress, 0):
            for _ in range(3):
                progress.counted(InFlight([shard.id for shard in SHARDS][:4], 2))
        text = console.file.getvalue()
        lines = text.count("images: 0 of 10 shards, 2 of 2 workers busy")
        assert 1 <= lines <= most and (lines > 3) == (most > 1), text


@pytest.mark.parametrize("width", [32, 40, 60, 80, 200])
def test_a_summary_leaves_columns_out_before_it_breaks_lines(width):
    progress, console = on(width)
    with progress.showing(), at_images(progress) as step:
        step.result(Record("images", "f", "1", {}, {}, rows=400, n_bytes=20_000_000), "")
    before = len(console.file.getvalue())
    progress.ended(["images"])
    lines = console.file.getvalue()[before:].splitlines()
    assert len(lines) == 3 and "360" in lines[1]
    assert all(len(line) <= width for line in lines)


def test_nothing_that_ran_has_no_summary():
    progress, console = on()
    progress.plan("photos", STEPS, Run())
    progress.ended([])
    assert console.file.getvalue() == ""


def test_where_a_log_says_that_a_run_is():
    step = '{"time": "", "event": "step", "step": "images"}\n'
    going = step.replace('"step", ', '"progress", "shards_done": 4, "shards_total": 10, "eta_s": 61, ')
    assert where_at(step) == "images"
    others = '{"time": "", "event": "note"}\n{"no": "line of ours"\n'
    assert where_at(step + going + others) == "images 4 of 10, 1:01 left"
    assert where_at("pairs      new\n") == "pairs"
    assert where_at("codes/64  new\n  codes/64 waits for a node: it takes\n") == "codes/64 waits for a node"
    assert where_at("  train/1-64: 3 of 20 steps, loss 5.3, 7 tokens/s\n") == "train/1-64 3 of 20 steps"
    assert where_at("Running entrypoint for job x: python\n") == ""


def test_words():
    assert [clock(s) for s in (7, 250, 3723, 183_600)] == ["0:07", "4:10", "1:02:03", "2 d 3 h"]
    assert [usd(x) for x in (0.0123, 12.3, 12_345.6)] == ["$0.0123", "$12.30", "$12,346"]
