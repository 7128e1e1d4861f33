"""Speed of generation: batches with a cache of keys and values, against the reference's way.

python benchmarks/bench_sample.py [--side 128] [--batches 1 8 32] [--hidden 128 --layers 3 --heads 4]

The reference's way is transformers' `generate`, one image at a time, with Lumina-mGPT's logits processors
written out here: guidance with a cache of its own, structure, top-k, temperature. Beside it, a plain loop
without any cache. The weights are random: as much work, but the images say nothing. On a machine with a GPU
it runs there, in bf16.
"""

import argparse
import time
from collections.abc import Callable

import torch
from transformers import (
    ChameleonForConditionalGeneration,
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    TopKLogitsWarper,
)

from rasterloom.schema import Profile
from rasterloom.tokenize.profiles import profile_of
from rasterloom.train.model.packed_lm import tiny_config
from rasterloom.train.sampling.sampler import Sampler

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
CFG, TOP_K, PROMPT_TOKENS = 3.0, 2000, 24


def model_of(profile: Profile, options: argparse.Namespace) -> ChameleonForConditionalGeneration:
    config = tiny_config(profile)
    config.hidden_size, config.num_hidden_layers = options.hidden, options.layers
    config.intermediate_size = options.hidden * 11 // 4
    config.num_attention_heads = config.num_key_value_heads = options.heads
    torch.manual_seed(0)
    dtype = torch.bfloat16 if CUDA else torch.float32
    with DEVICE:
        model = ChameleonForConditionalGeneration(config).to(dtype).eval()
    model.model.vqmodel = None
    return model


class Guidance(LogitsProcessor):  # type: ignore[misc]
    """Classifier-free guidance with a cache of its own.

    logits = s * (l - l0) + l0, where l0 sees only the tokens from boi on.
    """

    def __init__(self, model: ChameleonForConditionalGeneration, head: list[int]) -> None:
        self.model, self.next = model, torch.tensor([head], device=DEVICE)
        self.cache = DynamicCache()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen = self.next if self.cache.get_seq_length() == 0 else input_ids[:, -1:]
        without = self.model(input_ids=seen, past_key_values=self.cache, use_cache=True).logits[:, -1].float()
        guided: torch.Tensor = CFG * (scores - without) + without
        return guided


class Structure(LogitsProcessor):  # type: ignore[misc]
    """Image tokens alone; after each row its end."""

    def __init__(self, profile: Profile, prompt: int, width: int) -> None:
        self.profile, self.prompt, self.width = profile, prompt, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        done = input_ids.shape[1] - self.prompt
        allowed = torch.full_like(scores, -torch.inf)
        if (done + 1) % (self.width + 1) == 0:
            allowed[:, self.profile.eol] = 0
        else:
            allowed[:, self.profile.image0 : self.profile.image0 + self.profile.codebook_size] = 0
        return scores + allowed


def by_generate(
    model: ChameleonForConditionalGeneration, profile: Profile, prompt: list[int], codes: int
) -> None:
    """One image of codes x codes, as the reference draws it."""
    units = codes * profile.downsample // profile.grid_unit
    head = [profile.boi, profile.grid0 + units, profile.grid0 + units]
    ids = torch.tensor([prompt + head], device=DEVICE)
    processors = [Guidance(model, head), Structure(profile, ids.shape[1], codes), TopKLogitsWarper(TOP_K)]
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        top_k=0,
        max_new_tokens=codes * (codes + 1) - 1,
        logits_processor=LogitsProcessorList(processors),
    )


@torch.no_grad()
def without_cache(
    model: ChameleonForConditionalGeneration, profile: Profile, prompt: list[int], codes: int
) -> None:
    units = codes * profile.downsample // profile.grid_unit
    image = [profile.boi, profile.grid0 + units, profile.grid0 + units]
    for k in range(codes * codes):
        logits = [
            model.lm_head(
                model.model(input_ids=torch.tensor([ids], device=DEVICE), use_cache=False).last_hidden_state[
                    0, -1
                ]
            ).float()
            for ids in (prompt + image, image)
        ]
        guided = (CFG * (logits[0] - logits[1]) + logits[1])[profile.image0 :][: profile.codebook_size]
        image.append(profile.image0 + int(torch.multinomial(guided.softmax(0), 1)))
        image += [profile.eol] if (k + 1) % codes == 0 else []


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock, and of the processor."""
    if CUDA:
        torch.cuda.synchronize()
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - clock, time.process_time() - cpu


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--side", type=int, default=128, help="pixels (default: %(default)s)")
    arguments.add_argument("--pictures", type=int, default=32)
    arguments.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    arguments.add_argument("--codec", default="mini", choices=["mini", "chameleon"])
    arguments.add_argument("--hidden", type=int, default=128)
    arguments.add_argument("--layers", type=int, default=3)
    arguments.add_argument("--heads", type=int, default=4)
    arguments.add_argument("--no-plain", action="store_true", help="leave out the loop without a cache")
    options = arguments.parse_args()

    profile = profile_of(options.codec)
    model = model_of(profile, options)
    codes = options.side // profile.downsample
    prompt = [profile.bos, *[profile.text0 + i for i in range(PROMPT_TOKENS)], profile.sep]
    size = (options.side, options.side)
    where = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{codes * codes} codes a picture, {millions:,.1f} M parameters, {where}, guidance {CFG}\n")
    print("| | pictures/s | times generate | CPU s a picture |\n|---|---|---|---|")
    runs: list[tuple[str, int, Callable[[], object]]] = [
        ("transformers' generate, one at a time", 1, lambda: by_generate(model, profile, prompt, codes))
    ]
    if not options.no_plain:
        runs.append(("plain loop without a cache", 1, lambda: without_cache(model, profile, prompt, codes)))
    sampler = Sampler(model, profile)
    for batch in options.batches:
        count = min(options.pictures, 2 * batch)

        def draw(batch: int = batch, count: int = count) -> object:
            sampler.batch = batch
            return sampler.sample([prompt] * count, [size] * count, cfg=CFG, top_k=TOP_K)

        runs.append((f"ours, batches of {batch}", count, draw))
    sampler.sample([prompt], [(32, 32)])  # warm up
    base = None
    for name, count, work in runs:
        clock, cpu = timed(work)
        base = base or count / clock
        print(
            f"| {name} | {count / clock:.3f} | {count / clock / base:.1f} | {cpu / count:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
