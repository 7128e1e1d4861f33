"""A training step of ours beside padded training in transformers: a table.

python benchmarks/bench_train.py                                    # a tiny model on a CPU, some minutes
python benchmarks/bench_train.py --device cuda --size 7b --layers 24 --remat full --targets 512 768 1024
python benchmarks/bench_train.py ... --profile                      # and where the time of our step goes

Samples have the lengths of text-to-image samples at a target: an image of any bucket, a prompt before it
(log-normal around 40 tokens, 340 at most), one in ten without. Tokens are random. All ways see the same
samples once; a step takes about --batch-tokens of them. Useful tokens are those that are no padding.

ours     sequences concatenated, attention within each, the loss in chunks, z-loss as well; AdamW
trainer  transformers.Trainer with SDPA; a batch is padded to its longest sample
padded   where accelerate, which the Trainer takes, is not there: the same steps in a loop of our own
fixed    as these, but all batches are padded to the longest sample of all

Weights and AdamW's states have the --dtype. It takes torch, transformers, numpy, pyarrow and pydantic.
"""

import argparse
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from tempfile import TemporaryDirectory

import numpy as np
import torch
from kernel_tables import kernel_tables
from torch import Tensor
from torch.nn.functional import pad
from transformers import ChameleonForConditionalGeneration

from rasterloom.recipe.model import Model
from rasterloom.recipe.train import Stage, Train
from rasterloom.schema import Profile
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.profiles import CHAMELEON, MINI
from rasterloom.train.data.batching import plan_batches
from rasterloom.train.data.collate import IGNORE, pack
from rasterloom.train.data.token_dataset import TokenSample
from rasterloom.train.estimate.flops import mfu, train_flops
from rasterloom.train.model.initialization import build_model
from rasterloom.train.model.packed_lm import training_model
from rasterloom.train.model.shapes import SIZES, Shape, shape_of

WARM_UP = 2  # steps that do not count
LR = 1e-4
BETAS = (0.9, 0.95)


@dataclass
class Result:
    way: str
    tokens: int = 0  # useful ones
    squares: int = 0
    loss_tokens: int = 0
    rows: int = 0
    slots: int = 0  # tokens that went through the model, with padding
    clock: float = 0.0
    cpu: float = 0.0
    peak: int = 0  # bytes on the GPU

    def rate(self, device: str) -> float:
        """Useful tokens a second: of the GPU by the clock, else of CPU time, which other work moves less."""
        return self.tokens / (self.clock if device == "cuda" else self.cpu)


class Stopwatch:
    """Counts what happens after the warm-up."""

    def __init__(self, way: str, device: str) -> None:
        self.result, self.device, self.step = Result(way), device, 0
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def done(self, samples: Sequence[TokenSample], slots: int) -> None:
        """A step on these samples has been taken."""
        self.step += 1
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter(), time.process_time()
        if self.step <= WARM_UP:
            self.start = now
            return
        result, lengths = self.result, [len(sample.input_ids) for sample in samples]
        result.tokens += sum(lengths)
        result.squares += sum(n * n for n in lengths)
        result.loss_tokens += sum(int(np.diff(sample.loss_spans).sum()) for sample in samples)
        result.rows += len(samples)
        result.slots += slots
        result.clock, result.cpu = now[0] - self.start[0], now[1] - self.start[1]
        if self.device == "cuda":
            result.peak = torch.cuda.max_memory_allocated()


def make_samples(target: int, count: int, profile: Profile) -> list[TokenSample]:
    rng = np.random.default_rng(0)
    buckets = bucket_sizes(target)
    samples = []
    for _ in range(count):
        width, height = buckets[rng.integers(len(buckets))]
        image = 4 + height // 16 * (width // 16 + 1)
        prompt = 0 if rng.random() < 0.1 else 2 + min(338, int(rng.lognormal(np.log(40), 0.7)))
        ids = rng.integers(0, profile.vocab_size, prompt + image + 1, dtype=np.int32)
        samples.append(TokenSample(ids, np.array([[prompt, len(ids)]], dtype=np.int32)))
    return samples


def batches(samples: list[TokenSample], batch_tokens: int) -> list[list[TokenSample]]:
    lengths = [len(sample.input_ids) for sample in samples]
    plan = plan_batches(lengths, seed=0, epoch=0, batch_tokens=batch_tokens)
    return [[samples[row] for row in rows] for rows in plan]


def padded_batch(samples: Sequence[TokenSample], profile: Profile, length: int) -> dict[str, Tensor]:
    longest = max(length, *(len(sample.input_ids) for sample in samples))
    batch: dict[str, list[Tensor]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for sample in samples:
        ids = torch.from_numpy(sample.input_ids.astype(np.int64))
        labels, room = ids.clone(), (0, longest - len(ids))
        labels[: sample.loss_spans[0, 0]] = IGNORE
        batch["input_ids"].append(pad(ids, room, value=profile.pad))
        batch["labels"].append(pad(labels, room, value=IGNORE))
        batch["attention_mask"].append(pad(torch.ones_like(ids), room))
    return {name: torch.stack(rows) for name, rows in batch.items()}


def ours(args: argparse.Namespace, samples: list[TokenSample], profile: Profile) -> Result:
    model, optimizer = our_model(args, profile)
    watch = Stopwatch("ours", args.device)
    for batch in batches(samples, args.batch_tokens):
        our_step(model, optimizer, batch, args.device)
        watch.done(batch, sum(len(sample.input_ids) for sample in batch))
    return watch.result


def our_model(args: argparse.Namespace, profile: Profile) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    options = Model(remat=args.remat, compile=args.compile)
    train = Train(
        stages=(Stage(target=args.targets[0], steps=1),), init=args.size, model=options, dropout=0.0
    )
    model = training_model(args.size, profile, train).to(args.device, getattr(torch, args.dtype)).train()
    return model, adamw(model, args)


def our_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Sequence[TokenSample], device: str
) -> None:
    packed = pack(batch)
    ids, targets = (torch.from_numpy(x).to(device) for x in (packed.input_ids, packed.targets))
    losses = model(ids, targets, packed.lengths)
    (losses.total / len(losses.nll)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def adamw(model: torch.nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, fused=args.device == "cuda")


def plain_model(args: argparse.Namespace, profile: Profile) -> ChameleonForConditionalGeneration:
    lm = build_model(args.size, profile).to(args.device, getattr(torch, args.dtype)).train()
    lm.set_attn_implementation("sdpa")
    if args.remat != "none":
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    return lm


def padded(args: argparse.Namespace, samples: list[TokenSample], profile: Profile, length: int) -> Result:
    lm = plain_model(args, profile)
    optimizer = adamw(lm, args)
    watch = Stopwatch("padded", args.device)
    for batch in batches(samples, args.batch_tokens):
        tensors = padded_batch(batch, profile, length)
        loss = lm(**{name: t.to(args.device) for name, t in tensors.items()}, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        watch.done(batch, tensors["input_ids"].numel())
    return watch.result


def trainer(args: argparse.Namespace, samples: list[TokenSample], profile: Profile, length: int) -> Result:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    watch = Stopwatch("trainer", args.device)
    seen: list[tuple[list[TokenSample], int]] = []

    def collate(batch: list[TokenSample]) -> dict[str, Tensor]:
        tensors = padded_batch(batch, profile, length)
        seen.append((batch, tensors["input_ids"].numel()))
        return tensors

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: object, **__: object) -> None:
            watch.done(*seen[watch.step])

    mean = sum(len(sample.input_ids) for sample in samples) / len(samples)
    with TemporaryDirectory() as folder:
        options = TrainingArguments(
            folder,
            per_device_train_batch_size=max(1, round(args.batch_tokens / mean)),
            num_train_epochs=1,
            learning_rate=LR,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            lr_scheduler_type="constant",
            bf16=False,  # the model itself has the dtype
            use_cpu=args.device == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            logging_strategy="no",
        )
        lm = plain_model(args, profile)
        run = Trainer(lm, options, train_dataset=samples, data_collator=collate, callbacks=[Watch()])
        run.train()
    return watch.result


def measure(way: str, args: argparse.Namespace, samples: list[TokenSample], profile: Profile) -> Result:
    longest = max(len(sample.input_ids) for sample in samples)
    peer, name = (trainer, "trainer") if find_spec("accelerate") else (padded, "padded")
    if way == "ours":
        result = ours(args, samples, profile)
    elif way == "fixed":
        result = peer(args, samples, profile, longest)
        result.way = f"{name}, fixed"
    else:
        result = peer(args, samples, profile, 0)
    gc.collect()
    if args.device == "cuda":
        torch.cuda.empty_cache()
    return result


def row(target: int, result: Result, best: Result, device: str, shape: Shape) -> str:
    cells = [
        str(target),
        result.way,
        f"{result.rate(device):,.0f}",
        f"{best.rate(device) / result.rate(device):.2f} times",
        f"{result.tokens / result.slots:.3f}",
        f"{result.tokens / result.clock:,.0f}",
    ]
    if device == "cuda":
        sums = {name: getattr(result, name) for name in ("tokens", "squares", "loss_tokens")}
        used = mfu(train_flops(shape, **sums), result.clock, [torch.cuda.get_device_name()])
        cells += ["unknown peak" if used is None else f"{used:.1%}", f"{result.peak / 2**30:.1f}"]
    return "| " + " | ".join(cells) + " |"


def profile_step(args: argparse.Namespace, samples: list[TokenSample], profile: Profile) -> str:
    """Time of our step, by kind of kernel."""
    model, optimizer = our_model(args, profile)
    warm, *measured = batches(samples, args.batch_tokens)[:3]
    our_step(model, optimizer, warm, args.device)
    with torch.profiler.profile() as profiled:
        for batch in measured:
            our_step(model, optimizer, batch, args.device)
        if args.device == "cuda":
            torch.cuda.synchronize()
    return kernel_tables(profiled, on_gpu=args.device == "cuda")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--layers", type=int, help="of the size, if not all: for one that would not fit")
    parser.add_argument("--targets", type=int, nargs="+", default=[512])
    parser.add_argument("--batch-tokens", type=int, default=0, help="default 8 or, on a GPU, 16 thousand")
    parser.add_argument("--steps", type=int, default=8, help="about so many that count")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU")
    parser.add_argument("--remat", choices=("none", "selective", "full"), default="none")
    parser.add_argument("--compile", action="store_true", help="our layers")
    parser.add_argument("--rounds", type=int, default=1, help="the best of so many")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    args.dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    args.batch_tokens = args.batch_tokens or (16_384 if args.device == "cuda" else 8_192)
    return args


def main() -> None:
    args = parse()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no GPU")
    if args.layers:
        SIZES[args.size] = replace(SIZES[args.size], layers=args.layers)
    profile = MINI if args.size == "tiny" else CHAMELEON
    shape = shape_of(args.size, profile.vocab_size)
    on = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.size}, {shape.layers} layers, {shape.params / 1e6:,.0f} M parameters, {args.dtype}, {on}")
    print(f"remat {args.remat}, compile {args.compile}, {args.batch_tokens:,} tokens a step\n")
    titles = ["target", "way", "useful tokens/s", "ours is", "useful share", "by the clock"]
    titles += ["MFU", "peak, GiB"] if args.device == "cuda" else []
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for target in args.targets:
        count = (args.steps + WARM_UP) * args.batch_tokens // (target * target // 256)
        samples = make_samples(target, count, profile)
        results: dict[str, list[Result]] = {way: [] for way in ("ours", "peer", "fixed")}
        for _ in range(args.rounds):
            for way, found in results.items():
                found.append(measure(way, args, samples, profile))
        best = [max(found, key=lambda result: result.rate(args.device)) for found in results.values()]
        for result in best:
            print(row(target, result, best[0], args.device, shape), flush=True)
        if args.profile:
            print(profile_step(args, samples, profile), flush=True)


if __name__ == "__main__":
    main()
