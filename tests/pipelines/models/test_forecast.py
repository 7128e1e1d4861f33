"""A dry run before there are tokens: the paper's run, by its recipe alone."""

import json

import pytest

from rasterloom.train.model.shapes import SIZES

RECIPE = """
corpus: photos
workspace: workspace
sources: [{path: pairs.csv}]
tokenize: {codec: chameleon, weights: vqgan.ckpt, targets: [512, 768, 1024]}
train:
  init: 7b
  stages:
    - {target: 512, epochs: 2}
    - {target: 768, epochs: 2}
    - {target: 1024, epochs: 2, batch_tokens: %(batch)s}
  model: %(model)s
run:
  use_gpu: true
  train_workers: %(workers)s
  steps: {train: {cpus: 8, accelerator: %(kind)s}}
"""
LARGE = {"batch": 1_048_576, "model": "{}"}


@pytest.fixture
def dry(tmp_path, rasterloom):
    def run(*options, **fields):
        (tmp_path / "pairs.csv").write_text("url,caption\nhttp://127.0.0.1/a.jpg,one\n")
        (tmp_path / "vqgan.ckpt").write_text("weights, which are known by their bytes")
        (tmp_path / "recipe.yaml").write_text(RECIPE % (LARGE | fields))
        code, printed, error = rasterloom("train", tmp_path / "recipe.yaml", "--dry-run", *options)
        assert code == 0, error
        return printed

    return run


def rows(printed):
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.parametrize(("kind", "workers"), [("A100-80G", 32), ("H100", 8)])
def test_each_stage_of_the_papers_run_tells_its_fit_its_pace_and_its_bytes(kind, workers, dry):
    found = rows(dry("--format", "json", kind=kind, workers=workers))
    assert [row["stage"] for row in found] == ["train/1-512", "train/2-768", "train/3-1024"]
    params = SIZES["7b"].params
    for row, batch in zip(found, (262_144, 262_144, 1_048_576), strict=True):
        (fit,) = row["fits"]
        assert fit["fits"] and fit["operators"] == "kernels" and fit["gpu"] == 79.1 * 2**30
        assert 0.5 * fit["gpu"] < fit["memory"] < 0.93 * fit["gpu"]
        assert list(row["tokens_per_s"]) == [kind.split("-")[0]]
        (pace,) = row["paces"].values()
        (rate,) = row["tokens_per_s"].values()
        assert pace["source"] == "operators counted with fused kernels, not measured"
        # 6 FLOPs of each weight, and attention's, which grow with the length.
        assert 0.95 * 6 * params < pace["peak"] * pace["mfu"] / rate < 1.1 * 6 * params
        share = batch / workers + row["longest"]
        parts = -(-share // (fit["micro_batch_tokens"] or share))
        one = 2 * params * (workers - 1) / workers
        assert row["bytes_sent"] == pytest.approx(one * (parts + 1), rel=0.01)
    longest = [row["longest"] for row in found]
    assert longest == sorted(longest) and longest[2] > 4000
    rates = [next(iter(row["tokens_per_s"].values())) for row in found]
    assert rates[0] > rates[2]  # longer sequences, and no less computed again


def test_it_is_printed_for_people(dry):
    printed = dry(kind="A100-80G", workers=32)
    assert "tokens/512, text would run first (rasterloom run RECIPE --until tokens)" in printed
    assert printed.count("GiB sent by a worker in each step") == 3
    assert printed.count(" on one A100, at ") == 3 and "H100" not in printed
    assert printed.count("MFU (operators counted with fused kernels, not measured)") == 3
    assert printed.count("  fits ") == 3 and "with fused kernels, " in printed


@pytest.mark.parametrize(
    ("model", "operators"),
    [("{compile: true}", "compiled layers"), ("{kernels: eager}", "PyTorch's operators")],
)
def test_it_is_of_what_the_recipe_has_compute_the_layers(model, operators, dry):
    printed = dry(kind="H100", workers=8, model=model)
    assert printed.count(f"with {operators}, ") == 3


def test_what_cannot_fit_is_told_with_ways_out(dry):
    printed = dry(kind="A100-40G", workers=2)
    assert "too big" in printed and "it would fit with " in printed
