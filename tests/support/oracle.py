"""Plain trainer in one process: one document after the other, float64, neither DeepSpeed nor packing.

It says what a chain of stages must give. Only random draws are handed to it (`Given`): the order of rows,
which prompts are dropped, which rows are held out, where adapters start. All else is its own reading of
docs/training.md and docs/checkpoints.md.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from statistics import median

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch.func import functional_call
from transformers import ChameleonForConditionalGeneration

BETAS = (0.9, 0.95)
ROOMS = {"embeddings": "model.embed_tokens.*", "head": "lm_head.*", "norms": "*norm.*"}


@dataclass(frozen=True)
class Given:
    """Random draws of a stage, taken from the project."""

    order: Callable[[int], list[int]]
    """Rows of an epoch, numbered through the stage's files."""
    passes: Callable[[int], list[int]]
    """Of each of these rows, the number of the pass over its part."""
    drops: Callable[[int, str, int], bool]
    """True if the prompt of a row, of a number and a key, is dropped in a pass."""
    holds: Callable[[str], bool]
    """Whether the row of a key is held out."""
    adapters: dict
    """First matrices (A) of adapters, by the name of the matrix beside which they stand."""


@dataclass
class State:
    """Weights, by transformers' names, and the optimizer's state of each trained tensor."""

    weights: dict
    moments: dict = field(default_factory=dict)
    apart: dict = field(default_factory=dict)
    """Of a model with adapters, all of its tensors before they are merged."""


@dataclass
class Outcome:
    """Everything a stage must leave."""

    state: State
    batches: list  # of each step its documents, token ids
    steps: list  # of each step what metrics.jsonl says, and "rows": numbers
    heldout: dict  # by step: {"all": ..., "tasks": ..., "buckets": ...}
    checkpoints: list  # steps after which there is something to go on from


def first_state(folder):
    weights = load_file(f"{folder}/model.safetensors")
    return State({name: w.double() for name, w in weights.items() if "vqmodel" not in name})


def train(job, given, state, *, saves=frozenset(), poisoned=frozenset()):
    """Train a stage from the state before it.

    Args:
        saves: steps after which a checkpoint is written beside the regular ones, because of a stop.
        poisoned: steps, from 1, whose loss or gradients are not finite.
    """
    stage, recipe = job.stage, job.train
    rows, parts, held = read_rows(job, given)
    net = Net(job, given, state)
    optimizers = make_optimizers(recipe, net)
    if job.keep_optimizer_from:
        load_moments(net, optimizers, state.moments)
    batches = plan(stage, rows, parts, given)
    heldout = {0: measure(net, held)}
    steps, fed, usual = [], [], []
    saved, due, checkpoints = keep(net, optimizers), False, [0]
    for step, (numbers, passes) in enumerate(batches):
        lr = learning_rate(step, len(batches), stage)
        dropped = [
            recipe.cfg_drop > 0 and given.drops(n, rows[n]["key"], a_pass)
            for n, a_pass in zip(numbers, passes, strict=True)
        ]
        documents = [document(rows[n], job.profile, drop) for n, drop in zip(numbers, dropped, strict=True)]
        loss, z, by_row = net.gradients(documents, recipe.z_loss)
        norm = math.sqrt(
            sum(float(p.grad.square().sum()) for p in net.trained.values() if p.grad is not None)
        )
        far = recipe.guard.factor and len(usual) >= recipe.guard.window
        refused = step + 1 in poisoned or bool(
            far and loss > recipe.guard.factor * median(usual[-recipe.guard.window :])
        )
        if refused and recipe.guard.on == "rollback":
            restore(net, optimizers, saved)
        elif not refused:
            usual.append(loss)
            take_step(net, optimizers, lr, recipe.grad_clip / norm)
        fed.append([ids for ids, _ in documents])
        steps.append(
            {
                "lr": lr,
                "loss": loss,
                "z": z,
                "grad_norm": norm,
                "refused": refused,
                "tokens": sum(len(ids) for ids, _ in documents),
                "loss_tokens": sum(len(targets) for _, targets in documents),
                "rows": numbers,
                "by_row": [(rows[n], *sums) for n, sums in zip(numbers, by_row, strict=True)],
                "droppable": [(rows[n]["key"], drop) for n, drop in zip(numbers, dropped, strict=True)],
            }
        )
        due = due or (step + 1) % recipe.checkpoint_every == 0
        if (due and not refused) or step + 1 in saves:
            saved, due = keep(net, optimizers), False
            checkpoints.append(step + 1)
        if step + 1 == len(batches) or (recipe.evaluate_every and (step + 1) % recipe.evaluate_every == 0):
            heldout[step + 1] = measure(net, held)
    weights = {name: w.detach() for name, w in net.weights().items()}
    apart = {} if net.lora is None else {name: w.detach().clone() for name, w in net.base.items()}
    return Outcome(State(weights, moments_of(net, optimizers), apart), fed, steps, heldout, checkpoints)


def read_rows(job, given):
    """Rows of the stage's files, and the trained and held-out numbers. Those of training are by part."""
    rows, parts, held, first = [], [], [], 0
    for part in job.parts:
        numbers = []
        for file in job.token_files[first : first + part.files]:
            for row in pq.read_table(file).to_pylist():
                if not part.tasks or row["task"] in part.tasks:
                    held.append(row) if given.holds(row["key"]) else numbers.append(len(rows))
                rows.append(row)
        parts.append((part.weight, numbers))
        first += part.files
    return rows, parts, [(row, document(row, job.profile, False)) for row in held]


def plan(stage, rows, parts, given):
    """Rows of each global batch, and the passes that they come in."""
    found, seen, epoch, target = [], 0, 0, math.inf
    while len(found) < (stage.steps or math.inf) and seen < (stage.tokens or math.inf) and epoch < target:
        target = stage.epochs or math.inf
        batches = cut(given.order(epoch), rows, stage)
        check_epochs(stage, rows, parts, [given.order(e) for e in range(epoch + 1)])
        passes = check_passes(stage, [(given.order(e), given.passes(e)) for e in range(epoch + 1)])
        share = min(1.0, target - epoch)
        for batch in batches[: math.ceil(share * len(batches) - 1e-9)]:
            if len(found) < (stage.steps or math.inf) and seen < (stage.tokens or math.inf):
                found.append((batch, [next(passes) for _ in batch]))
                seen += sum(rows[n]["n_tokens"] for n in batch)
        epoch += 1
    return found


def cut(order, rows, stage):
    """Take rows until the next would exceed the batch."""
    batches, room = [], 0
    for at in range(0, len(order) - len(order) % stage.rows_multiple, stage.rows_multiple):
        unit = order[at : at + stage.rows_multiple]
        tokens = sum(rows[n]["n_tokens"] for n in unit)
        if not batches or tokens > room:
            batches.append([])
            room = stage.batch_tokens
        batches[-1] += unit
        room -= tokens
    return batches


def check_epochs(stage, rows, parts, orders):
    """Count the rows of some epochs: equally often within a part, and parts by their weights."""
    if stage.rows_multiple > 1:
        whole = sum(len(numbers) for _, numbers in parts)
        assert parts[0][0] is not None or all(0 <= whole - len(o) < stage.rows_multiple for o in orders)
        return
    counts = defaultdict(int)
    for number in (n for order in orders for n in order):
        counts[number] += 1
    assert set(counts) <= {n for _, numbers in parts for n in numbers}, "a row that is not to be trained on"
    tokens = [sum(rows[n]["n_tokens"] for n in numbers) for _, numbers in parts]
    for (weight, numbers), of_part in zip(parts, tokens, strict=True):
        times = [counts[n] for n in numbers]
        assert max(times) - min(times) <= (weight is not None), "one row of a part more often than another"
        passes = 1.0
        if weight is not None:
            passes = weight / sum(w for w, _ in parts) * sum(tokens) / of_part
        assert abs(sum(times) - passes * len(orders) * len(numbers)) <= 0.5 + 1e-6, "the share of a part"


def check_passes(stage, epochs):
    """The last epoch's passes, one after the other. No row comes twice in a pass over its part."""
    came = [pair for order, passes in epochs for pair in zip(order, passes, strict=True)]
    assert len(set(came)) == len(came), "a row twice in a pass"
    if not stage.mixture or stage.mixture[0].weight is None:
        assert all(set(passes) == {epoch} for epoch, (_, passes) in enumerate(epochs)), "a pass is an epoch"
    return iter(epochs[-1][1])


def document(row, profile, dropped):
    """Token ids, and the positions that are predicted and count."""
    ids = row["input_ids"]
    spans = list(zip(row["loss_spans"][::2], row["loss_spans"][1::2], strict=True))
    if dropped and row["task"] == "t2i":  # one image, and that is the answer
        ids = ids[ids.index(profile.boi) : ids.index(profile.eoi) + 1]
        spans = [(0, len(ids))]
    return ids, [at for start, end in spans for at in range(start, end) if at > 0]


def learning_rate(step, steps, stage):
    warmup = stage.warmup_steps
    if warmup is None:
        warmup = math.ceil(round(stage.warmup_share * steps, 6))
    if step < warmup:
        return stage.lr * (step + 1) / warmup
    kind = stage.schedule or ("cosine" if stage.min_lr is not None else "constant")
    done = (step + 1 - warmup) / max(1, steps - warmup)
    end = stage.min_lr or 0.0
    if kind == "linear":
        return stage.lr + done * (end - stage.lr)
    return stage.lr if kind == "constant" else end + (stage.lr - end) * math.cos(done * math.pi / 2) ** 2


class Net:
    """Chameleon of transformers as a function of named tensors."""

    def __init__(self, job, given, state):
        self.lm = ChameleonForConditionalGeneration.from_pretrained(job.init, attn_implementation="eager")
        self.lm.model.vqmodel = None
        self.lm.double().train()
        self.lora = job.train.model.lora
        goes_on = self.lora is not None and job.keep_optimizer_from
        self.base = {name: w.clone() for name, w in (state.apart if goes_on else state.weights).items()}
        if self.lora is None:
            names = {name: name for name in self.base}
        else:
            names = {}
            if self.lora.vocabulary:
                names = {n: n for n in self.base if "embed_tokens" in n or "lm_head" in n}
            for name, a in given.adapters.items():
                if not goes_on:
                    self.base[f"{name}:A"] = a.double().clone()
                    self.base[f"{name}:B"] = torch.zeros(len(self.base[name]), len(a), dtype=torch.float64)
                names |= {f"{name}:A": name, f"{name}:B": name}
        globs = [glob for pattern in job.stage.freeze for glob in globs_of(pattern)]
        self.trained = {
            key: self.base[key].requires_grad_()
            for key, name in names.items()
            if not any(fnmatchcase(name, glob) for glob in globs)
        }

    def weights(self):
        """Weights of the plain model, adapters merged."""
        plain = {name: w for name, w in self.base.items() if ":" not in name}
        for name in [name for name in self.base if name.endswith(":A")]:
            a, b = self.base[name], self.base[name[:-1] + "B"]
            plain[name[:-2]] = plain[name[:-2]] + (b @ a) * self.lora.alpha / self.lora.rank
        return plain

    def nll_and_z(self, ids, at, weights):
        logits = functional_call(self.lm, weights, kwargs={"input_ids": torch.tensor([ids])}).logits[0]
        before = logits[[n - 1 for n in at]]
        log_sums = torch.log(before.exp().sum(-1))
        return log_sums - before[range(len(at)), [ids[n] for n in at]], log_sums**2

    def gradients(self, documents, z_loss):
        """Mean loss and z of counted tokens, and sums by document. Leaves gradients."""
        for p in self.trained.values():
            p.grad = None
        count = max(1, sum(len(at) for _, at in documents))
        loss, z, by_row = 0.0, 0.0, []
        for ids, at in documents:
            nll, squares = self.nll_and_z(ids, at, self.weights())
            ((nll.sum() + z_loss * squares.sum()) / count).backward()
            loss, z = loss + nll.sum().item() / count, z + squares.sum().item() / count
            by_row.append((nll.sum().item(), len(at)))
        return loss, z, by_row

    def grad_norm(self):
        grads = [p.grad for p in self.trained.values() if p.grad is not None]
        return math.sqrt(sum(float(grad.square().sum()) for grad in grads))


def globs_of(pattern):
    if pattern.startswith("layers."):
        first, _, last = pattern.removeprefix("layers.").partition("-")
        return [f"model.layers.{n}.*" for n in range(int(first), int(last or first) + 1)]
    return [ROOMS.get(pattern, pattern)]


def make_optimizers(recipe, net):
    """AdamW, or Muon for the layers' matrices and AdamW for others. Norms do not decay."""
    muon = {}
    if recipe.optimizer == "muon":
        muon = {n: p for n, p in net.trained.items() if ".layers." in n and "norm" not in n}
    rest = {n: p for n, p in net.trained.items() if n not in muon}
    groups = [
        {"params": [p for n, p in rest.items() if "norm" not in n], "weight_decay": recipe.weight_decay},
        {"params": [p for n, p in rest.items() if "norm" in n], "weight_decay": 0.0},
    ]
    found = []
    if any(group["params"] for group in groups):
        groups = [group for group in groups if group["params"]]
        found.append(torch.optim.AdamW(groups, lr=1.0, betas=BETAS, foreach=False))
    if muon:
        options = {"momentum": 0.95, "weight_decay": recipe.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
        found.append(torch.optim.Muon(list(muon.values()), lr=1.0, **options))
    return found


def load_moments(net, optimizers, moments):
    for optimizer in optimizers:
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, p in net.trained.items():
            if id(p) in mine and name in moments:
                optimizer.state[p] = copy.deepcopy(moments[name])


def take_step(net, optimizers, lr, share):
    """Clip the gradients to that share of their norm, and step."""
    for p in net.trained.values():
        if p.grad is not None:
            p.grad *= min(1.0, share)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()


def moments_of(net, optimizers):
    named = [(name, p, optimizer) for name, p in net.trained.items() for optimizer in optimizers]
    return {name: copy.deepcopy(optimizer.state[p]) for name, p, optimizer in named if p in optimizer.state}


def keep(net, optimizers):
    weights = {name: p.detach().clone() for name, p in net.trained.items()}
    return weights, [copy.deepcopy(o.state_dict()) for o in optimizers]


def restore(net, optimizers, saved):
    for name, p in net.trained.items():
        p.data.copy_(saved[0][name])
    for optimizer, state in zip(optimizers, saved[1], strict=True):
        optimizer.load_state_dict(copy.deepcopy(state))


@torch.no_grad()
def measure(net, held):
    """Held-out loss, tokens and rows in all, by task and by bucket."""
    weights = net.weights()
    return by_group([(row, float(net.nll_and_z(*doc, weights)[0].sum()), len(doc[1])) for row, doc in held])


def by_group(rows):
    """Mean losses of (row, sum of losses, tokens), as in notes."""
    sums = defaultdict(lambda: [0.0, 0, 0])
    for row, loss, tokens in rows:
        for group in (("all", "all"), ("tasks", row["task"]), ("buckets", row["bucket"])):
            sums[group] = [a + b for a, b in zip(sums[group], (loss, tokens, 1), strict=True)]
    told = {group: {"loss": s[0] / s[1], "tokens": s[1], "rows": s[2]} for group, s in sums.items()}
    named = {kind: {name: s for (k, name), s in told.items() if k == kind} for kind in ("tasks", "buckets")}
    return {"all": told.get(("all", "all"), {"loss": None, "tokens": 0, "rows": 0}), **named}
