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
