"""Comparison of the project's training with the oracle's."""

import json
import math
from collections import Counter

import oracle
import pytest
import ranks
import torch
from drawn_recipes import PROFILE, jobs
from safetensors.torch import load_file

from rasterloom.train.checkpoint.saver import latest
from rasterloom.train.data.collate import heldout_draw, is_dropped
from rasterloom.train.data.stage_data import open_stage
from rasterloom.train.model.initialization import build_model
from rasterloom.train.model.lora import add_lora
from rasterloom.train.monitoring.metrics_log import read_metrics

# The project computes in float32, and matrices of other shapes (packing, ranks) round otherwise. AdamW
# enlarges rounding where a gradient is near its epsilon, in single weights; so the bound is a share of what a
# tensor has moved and of the farthest that one weight can, and one weight in 500 may be as far off as AdamW
# moves it. Muon orthogonalises in bf16, where five rounds
# enlarge the rounding, 2^-8, of what has small singular values.
MOVED = {"adamw": 2e-3, "muon": 0.15}
LOSS = {"adamw": 2e-4, "muon": 2e-2}


def given(job):
    """The random draws of a stage as the project makes them."""
    data = open_stage(job)
    adapters = {}
    if job.train.model.lora is not None:
        lm = build_model(job.init, PROFILE)
        add_lora(lm, job.train.model.lora, seed=job.train.seed, stage=job.train.stage_number)
        ends = ".lora_A.default.weight"
        adapters = {
            name.replace(ends, ".weight"): p.detach()
            for name, p in lm.named_parameters()
            if name.endswith(ends)
        }
    parts = dict(zip(data.train.tolist(), data.part_of.tolist(), strict=True))
    return oracle.Given(
        order=lambda epoch: [int(n) for rows in data.plan.epoch(epoch) for n in data.train[rows]],
        passes=lambda epoch: [int(n) for _, passes in data.plan._epoch(epoch) for n in passes],
        drops=lambda number, key, a_pass: is_dropped(key, job.train, part=parts[number], a_pass=a_pass),
        holds=lambda key: heldout_draw(key) < job.train.heldout,
        adapters=adapters,
    )


def run(job, runs, folder):
    """Run a stage with its cuts. Returns the first step of each attempt and the steps it saved for a stop."""
    starts, saves = [0], set()
    total = open_stage(job).plan.steps
    for world, cut in zip(runs.worlds, [*runs.cuts, None], strict=True):
        start = starts[-1]
        seen = folder / f"attempt-{len(starts)}"
        seen.mkdir(parents=True)
        options = {"seen": str(seen), "poison": [p - start for p in runs.poison], "spoilt": runs.spoilt}
        end = start + cut.step if cut else total
        if cut is None or end >= total:
            assert ranks.train(job, world, **options) == "done"
            break
        if cut.dies:
            with pytest.raises(RuntimeError):
                ranks.train(job, world, die_at=cut.step + 1, **options)
            last = latest(job.checkpoint_store, job.digest())
            starts.append(last.position.step if last else 0)
        else:
            assert ranks.train(job, world, stop_at=cut.step, **options) == "stopped"
            saves.add(end)
            starts.append(end)
    return starts, saves


def fed_to(folder):
    """Of each attempt and step, the micro-batches of each rank."""
    attempts = []
    for attempt in sorted(folder.iterdir(), key=lambda path: int(path.name.split("-")[1])):
        of_ranks = [
            [json.loads(line)["parts"] for line in file.read_text().splitlines()]
            for file in sorted(attempt.glob("rank-*.jsonl"))
        ]
        attempts.append(list(zip(*of_ranks, strict=False)))
    return attempts


def check_starts(job, runs, starts, checkpoints):
    """Check that each attempt goes on from the last checkpoint before it."""
    attempts = list(zip(starts, runs.cuts, strict=False))
    for number, ((start, cut), following) in enumerate(zip(attempts, starts[1:], strict=False), start=1):
        later = {begun + c.step for begun, c in attempts[number:] if not c.dies}
        made = [s for s in checkpoints if s not in later or s % job.train.checkpoint_every == 0]
        assert following == max(step for step in made if step <= start + cut.step), "where it goes on"


def check_fed(expected, attempts, starts, micro_batch_tokens):
    """Check that every step has its batch's documents once, in fitting parts."""
    last = {}
    for start, steps in zip(starts, attempts, strict=True):
        for at, of_ranks in enumerate(steps, start):
            documents = [tuple(ids) for parts in of_ranks for part in parts for ids in part]
            assert Counter(documents) == Counter(map(tuple, expected[at])), f"the documents of step {at + 1}"
            assert len({len(parts) for parts in of_ranks}) == 1, "one rank has more micro-batches"
            if micro_batch_tokens:
                assert all(sum(map(len, part)) <= micro_batch_tokens for parts in of_ranks for part in parts)
            last[at] = documents
    assert sorted(last) == list(range(len(expected))), "steps that were trained on"


def check_steps(job, runs, outcome, starts):
    records = read_metrics(job.metrics_file)
    near = LOSS[job.train.optimizer]
    assert [r["step"] for r in records] == list(range(1, len(outcome.steps) + 1))
    since = []
    for at, (record, step) in enumerate(zip(records, outcome.steps, strict=True), start=1):
        told = f"step {at}"
        assert record["total"] == len(records), told
        assert record["lr"] == pytest.approx(step["lr"], rel=1e-9), told
        assert ("note" in record) == step["refused"], told
        assert (record["tokens"], record["loss_tokens"]) == (step["tokens"], step["loss_tokens"]), told
        if at not in runs.poison:
            assert record["loss"] == pytest.approx(step["loss"], abs=near), told
            assert record["z"] == pytest.approx(step["z"], rel=near, abs=1e-3), told
            assert record["grad_norm"] == pytest.approx(step["grad_norm"], rel=20 * near, abs=1e-4), told
        since += step["by_row"]
        assert ("all" in record) == (at % job.train.log_every == 0 or at == len(records)), told
        if "all" in record:
            finite = not any(set(range(at - job.train.log_every + 1, at + 1)) & set(runs.poison))
            check_groups(record, oracle.by_group(since), near if finite else math.inf)
            since = []


def check_groups(found, expected, near):
    for kind, names in (("tasks", expected["tasks"]), ("buckets", expected["buckets"])):
        assert set(found[kind]) == set(names), kind
    pairs = [(found["all"], expected["all"])]
    pairs += [(found[k][n], expected[k][n]) for k in ("tasks", "buckets") for n in expected[k]]
    for mine, other in pairs:
        assert (mine["rows"], mine["tokens"]) == (other["rows"], other["tokens"])
        if near < math.inf and other["loss"] is not None:
            assert mine["loss"] == pytest.approx(other["loss"], abs=near)


def check_heldout(job, outcome):
    found = json.loads(job.heldout_file.read_text())
    near = LOSS[job.train.optimizer]
    steps = max(outcome.heldout)
    check_groups(found["start"], outcome.heldout[0], near)
    check_groups(found["end"], outcome.heldout[steps], near)
    every = job.train.evaluate_every
    due = {0, steps, *(range(every, steps + 1, every) if every else ())}
    assert set(found["steps"]) == {str(step) for step in due}
    for step in due:
        check_groups(found["steps"][str(step)], outcome.heldout[step], near)


def check_weights(job, origin, outcome, far):
    """Compare the weights with the oracle's.

    Args:
        origin: weights before the first stage.
        far: the sum of all learning rates since, which is as far as AdamW moves a weight.
    """
    found = load_file(job.model_dir / "model.safetensors")
    assert set(found) == set(outcome.state.weights)
    for name, expected in outcome.state.weights.items():
        difference = (found[name].double() - expected).abs().flatten()
        difference, apart = difference.sort().values.tensor_split([difference.numel() * 499 // 500])
        moved = float((expected - origin.weights[name]).norm())
        # A cosine ends near 0, not at it, which moves a bias of 0 by 1e-36.
        rounding = 1e-6 * float(expected.norm()) + 1e-12
        assert float(difference.norm()) <= MOVED[job.train.optimizer] * (moved + far) + rounding, (
            f"{name}: {float(difference.norm()):.3g} off, of {moved:.3g} moved"
        )
        assert float(apart.max()) <= 2 * far + rounding, f"{name}: a weight is {float(apart.max()):.3g} off"


def check_drops(job, outcome):
    """The share of prompts dropped, over all times that a row came."""
    draws = [drop for step in outcome.steps for _, drop in step["droppable"]]
    share = job.train.cfg_drop
    spread = math.sqrt(len(draws) * share * (1 - share))
    assert abs(sum(draws) - share * len(draws)) <= 4.5 * spread + 1e-9


def check_adapter(job, outcome):
    """The adapter, on the weights that it names, is the model."""
    folder = job.model_dir / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    base = oracle.first_state(config["base_model_name_or_path"]).weights
    model = load_file(job.model_dir / "model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    for name, weight in model.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        expected = tensors.get(f"{stem}.weight", base[name].float())
        if f"{stem}.lora_A.weight" in tensors:
            expected = (
                base[name].float()
                + scale * tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
            )
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6, msg=name)


def check(drawn, folder, ground):
    """Train a recipe both ways and compare."""
    torch.set_num_threads(1)  # on a busy machine more wait for each other, for a model this small
    init, files = ground
    origin = state = oracle.first_state(init)
    far = 0.0
    for job, runs in zip(jobs(drawn, folder, init, files), drawn.runs, strict=True):
        seen = folder / "seen" / job.folder.name
        starts, saves = run(job, runs, seen)
        outcome = oracle.train(job, given(job), state, saves=saves, poisoned=runs.poison)
        check_starts(job, runs, starts, outcome.checkpoints)
        check_fed(outcome.batches, fed_to(seen), starts, job.train.tokens_at_once)
        check_steps(job, runs, outcome, starts)
        check_heldout(job, outcome)
        check_drops(job, outcome)
        far += sum(step["lr"] for step in outcome.steps)
        check_weights(job, origin, outcome, far)
        if job.train.model.lora is not None:
            check_adapter(job, outcome)
        state = outcome.state
    return outcome
