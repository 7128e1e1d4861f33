import json
import math

import pytest

from rasterloom.train.monitoring.metrics_log import MetricsLog, StepSums, flat, read_metrics


def test_numbers_are_flat_for_trackers():
    record = {
        "step": 3,
        "total": 9,
        "loss": 1,
        "tasks": {"t2i": {"loss": 2.0, "tokens": 5}, "x": {"loss": None}},
    }
    assert flat(record, "train") == {
        "train/loss": 1.0,
        "train/tasks/t2i/loss": 2.0,
        "train/tasks/t2i/tokens": 5.0,
    }


def test_a_log_that_goes_on_forgets_what_was_lost(tmp_path):
    sums = StepSums(loss=2.0, z=1.0, grad_norm=0.5, tokens=10, loss_tokens=8, useful_share=0.9)
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, keep=0)
    for step in (1, 2, 3):
        log.write(sums, step=step, total=4, lr=0.1, seconds=0.5, more={"mfu": 0.4} if step == 2 else None)
    log.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    again = MetricsLog(path, keep=2)
    assert again.recent_loss() == 2.0
    again.close()
    assert [(line["step"], line.get("mfu")) for line in read_metrics(path)] == [(1, None), (2, 0.4)]
    assert read_metrics(path)[0]["tokens_per_s"] == 20.0


def test_every_line_is_strict_json(tmp_path):
    """Also those that a log of before, with NaN in them, is taken up with."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN, "note": "the loss is not finite"}\n')
    log = MetricsLog(path, keep=1)
    bad = StepSums(math.nan, z=math.inf, grad_norm=math.inf, tokens=10, loss_tokens=8, useful_share=0.9)
    more = {"note": "the loss is not finite", "tasks": {"t2i": {"loss": math.nan}}}
    log.write(bad, step=2, total=4, lr=0.1, seconds=0.5, more=more)
    log.close()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [line["loss"] for line in lines] == [None, None]
    assert (lines[1]["z"], lines[1]["grad_norm"], lines[1]["tasks"]) == (None, None, {"t2i": {"loss": None}})
