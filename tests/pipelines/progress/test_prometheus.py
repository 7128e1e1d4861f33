"""What Ray's metrics endpoint shows of a run, and the dashboard that asks for it."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from rasterloom.pipelines.progress.prometheus import COUNTERS, GAUGES, Metrics
from rasterloom.pipelines.workspace.staging import Published
from rasterloom.utils.local_ray import start_local_ray

DASHBOARD = Path(__file__).parents[3] / "infra" / "grafana" / "rasterloom.json"


@pytest.fixture(scope="module")
def shown():
    """The lines of the endpoint, by metric, after a run of two shards, one of which was lost once."""
    import ray

    start_local_ray(
        num_cpus=1,
        object_store_memory=100 * 2**20,
        _system_config={"metrics_report_interval_ms": 500},
    )
    metrics = Metrics("photos", "images")
    for number, counts in enumerate(({"ok": 7, "timeout": 2, "http_4xx": 0}, {"ok": 5, "timeout": 1})):
        metrics.lost() if number else None
        metrics.finished(Published(f"{number}", {}, 9, 1000, counts, 1.5), left=1 - number)
    pairs, tokens = {"read": 40, "repeated": 2, "pairs": 38}, {"sequences": 5, "tokens": 900}
    for step, counts in (("pairs", pairs), ("tokens/64", tokens)):
        Metrics("photos", step).finished(Published("0", {}, 9, 1000, counts, 1.5), left=0)
    stage = Metrics("photos", "train/1-64")
    row = {"step": 7, "total": 10, "loss": 2.5, "tokens_per_s": 900.0, "mfu": 0.4, "workers": 2}
    for step, skipped in ((6, 2), (7, 3), (8, 1)):  # other workers after the second
        stage.trained({**row, "step": step, "skipped": skipped})
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    until = time.monotonic() + 120
    while True:
        with urllib.request.urlopen(address, timeout=30) as answer:
            text = answer.read().decode()
        lines = [line for line in text.splitlines() if line.startswith("ray_rasterloom")]
        if len({line.partition("{")[0] for line in lines}) >= len(COUNTERS | GAUGES):
            yield lines
            return
        assert time.monotonic() < until, text
        time.sleep(0.5)


def value(lines, **tags):
    found = [
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(tags["name"] + "{")
        and all(f'{k}="{v}"' in line for k, v in tags.items() if k != "name")
    ]
    assert len(found) == 1, (tags, lines)
    return found[0]


def test_the_endpoint_counts_what_was_done(shown):
    tags = {"corpus": "photos", "step": "images"}
    assert value(shown, name="ray_rasterloom_rows_total", outcome="ok", **tags) == 12
    assert value(shown, name="ray_rasterloom_rows_total", outcome="timeout", **tags) == 3
    assert not any("http_4xx" in line for line in shown)
    assert value(shown, name="ray_rasterloom_shards_total", **tags) == 2
    assert value(shown, name="ray_rasterloom_bytes_total", **tags) == 2000
    assert value(shown, name="ray_rasterloom_worker_seconds_total", **tags) == 3
    assert value(shown, name="ray_rasterloom_shards_lost_total", **tags) == 1
    assert value(shown, name="ray_rasterloom_shards_left", **tags) == 0


def test_a_row_is_counted_once(shown):
    """The dashboard adds up outcomes: no sum is among them, and nothing that is no row."""
    for step, rows in (("pairs", 40), ("images", 15), ("tokens/64", 5)):
        of_step = [
            line for line in shown if line.startswith("ray_rasterloom_rows_total{") and f'"{step}"' in line
        ]
        assert sum(float(line.rpartition(" ")[2]) for line in of_step) == rows


def test_the_endpoint_shows_how_training_goes(shown):
    tags = {"corpus": "photos", "step": "train/1-64"}
    assert value(shown, name="ray_rasterloom_loss", **tags) == 2.5
    assert value(shown, name="ray_rasterloom_tokens_per_second", **tags) == 900
    assert value(shown, name="ray_rasterloom_mfu", **tags) == 0.4
    assert value(shown, name="ray_rasterloom_steps_left", **tags) == 2
    assert value(shown, name="ray_rasterloom_skipped_steps_total", **tags) == 4


def test_the_dashboard_asks_for_metrics_that_there_are(shown):
    there = {line.partition("{")[0] for line in shown}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    assert len(asked) >= 8
    ours = {name for expr in asked for name in re.findall(r"ray_rasterloom_\w+", expr)}
    assert ours == there
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) and all(panel["title"] for panel in dashboard["panels"])
