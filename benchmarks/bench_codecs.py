"""Speed of image codecs against the reference's, and precision's effect on codes.

python benchmarks/bench_codecs.py [--targets 256 512] [--images 4] [--threads 2] [--weights FILE]

Without --weights, the network is Chameleon's with random weights: as much work, but its images say nothing.
On a machine with a GPU it runs there, and adds what the encoder alone does on batches that lie in its memory.
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import skimage
import torch
import torch.nn.functional as F
from PIL import Image

from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import pair_key
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.codecs.codec_weights import codec_weights, read_tensors
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.codecs.mini import MiniCodec
from rasterloom.tokenize.crop import apply_crop, plan_crop
from rasterloom.tokenize.profiles import CHAMELEON
from rasterloom.tokenize.prompt_templates import t2i_prompt
from rasterloom.tokenize.text_tokenizer import JsonText, train_text
from rasterloom.tokenize.tokenize_shard import tokenize_shard
from rasterloom.tokenize.unirep import frame

PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "ihc.png")
TEXT = JsonText(train_text([], 256), CHAMELEON.text0)
CUDA = torch.cuda.is_available()
BF16 = CUDA or torch.ops.mkldnn._is_mkldnn_bf16_supported()  # else it is emulated, some ten times slower
PRECISIONS = ("fp32", "bf16") if BF16 else ("fp32",)
SIDE = 1024  # of the stored JPEG files


def photographs() -> list[Image.Image]:
    folder = Path(skimage.__file__).parent / "data"
    return [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS if (folder / name).exists()]


def shard(count: int) -> pa.Table:
    """Square images as they are stored: JPEG files of 1024 pixels a side, cut at random."""
    rng, sources, rows = np.random.default_rng(0), photographs(), []
    for number in range(count):
        image = sources[number % len(sources)]
        side = min(image.size) * 3 // 4
        left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
        box = (left, top, left + side, top + side)
        buffer = io.BytesIO()
        image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box).save(buffer, "JPEG", quality=92)
        caption = f"photograph {number}"
        rows.append({"key": pair_key(None, caption), "caption": caption, "image": buffer.getvalue()})
    return pa.Table.from_pylist(rows)


def random_weights(path: Path) -> Path:
    """Chameleon's network with random weights, with codes spread as its vectors are."""
    from safetensors.torch import save_file
    from transformers import ChameleonVQVAEConfig
    from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE

    torch.manual_seed(0)
    network = ChameleonVQVAE._from_config(ChameleonVQVAEConfig())
    for module in network.modules():  # transformers draws them so small that all images look alike
        if hasattr(module, "reset_parameters") and not isinstance(module, torch.nn.Embedding):
            module.reset_parameters()
    image = np.stack([np.asarray(p.resize((128, 128))) for p in photographs()])
    with torch.inference_mode():
        vectors = network.quant_conv(network.encoder(as_floats(image)))
    flat = vectors.transpose(0, 1).flatten(1)
    table = network.quantize.embedding.weight
    table.data = torch.randn(table.shape) * flat.std(1) + flat.mean(1)
    save_file(network.state_dict(), path)
    return path


def as_floats(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images / 255.0 * 2 - 1).float().permute(0, 3, 1, 2).contiguous()


class Reference:
    """The reference's way: an image at a time is decoded, cut, encoded in fp32 and framed, in one thread of
    control. The network is transformers', whose arithmetic is that of the reference's."""

    def __init__(self, weights: str) -> None:
        from transformers import ChameleonVQVAEConfig
        from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE

        self.device = "cuda" if CUDA else "cpu"
        with torch.device("meta"):
            self.network = ChameleonVQVAE(ChameleonVQVAEConfig())
        tensors = read_tensors(codec_weights("chameleon", weights))
        known = self.network.state_dict().keys()
        self.network.load_state_dict({k: v for k, v in tensors.items() if k in known}, assign=True)
        self.network.to(self.device).eval()

    @torch.no_grad()
    def encode(self, image: np.ndarray) -> np.ndarray:
        found = self.network.encode(as_floats(image[None]).to(self.device)).image_tokens
        codes: np.ndarray = found.cpu().numpy()
        return codes.reshape(image.shape[0] // 16, image.shape[1] // 16)

    def __call__(self, images: pa.Table, target: int) -> None:
        for row in images.to_pylist():
            image = Image.open(io.BytesIO(row["image"]))
            plan = plan_crop(image.size, bucket_sizes(target), seed=0)
            codes = self.encode(np.asarray(apply_crop(image, plan)))
            frame(codes, CHAMELEON)
            TEXT.encode(t2i_prompt(*plan.bucket, row["caption"]))


def ours(codec: Any, images: pa.Table, target: int) -> int:
    config = Tokenize(codec="chameleon", weights="given", batch=32)
    found = tokenize_shard(
        images, None, target=target, codec=codec, text=TEXT, config=config, profile=CHAMELEON
    )
    assert found.failures.num_rows == 0, found.failures.to_pylist()
    return int(found.tokens.num_rows)


_codec: Any = None


def _load(weights: str, precision: str) -> None:
    global _codec
    _codec = load_codec("chameleon", weights, 1, precision=precision)


def _work(images: pa.Table, target: int) -> float:
    """Tokenise on this process's codec; seconds of CPU time."""
    start = time.process_time()
    ours(_codec, images, target)
    return time.process_time() - start


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def speed(weights: str, targets: Sequence[int], count: int, threads: int, rounds: int) -> None:
    reference = Reference(weights)
    codecs = {p: load_codec("chameleon", weights, precision=p) for p in PRECISIONS}
    pools = {}
    if not CUDA:
        context = get_context("spawn")
        pools = {
            precision: ProcessPoolExecutor(threads, context, _load, (weights, precision))
            for precision in PRECISIONS
        }
    for target in targets:
        images = shard(count)
        parts = [images.take(list(range(n, count, threads))) for n in range(threads)]

        def in_workers(precision: str, parts: Any = parts, target: int = target) -> float:
            jobs = [pools[precision].submit(_work, part, target) for part in parts]
            return sum(job.result() for job in jobs)

        ways: dict[str, Callable[[], Any]] = {
            f"reference's way, {threads} threads": partial(reference, images, target)
        }
        for precision, codec in codecs.items():
            ways[f"{precision}, {threads} threads"] = partial(ours, codec, images, target)
            if pools:
                ways[f"{precision}, {threads} workers of 1 thread"] = partial(in_workers, precision)
        if CUDA:
            for precision, codec in codecs.items():
                ways[f"{precision}, encoder alone on resident batches"] = resident(codec, count, target)
        took: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        # In turns, as others may use the machine; the first round does not count.
        for round_ in range(rounds + 1):
            for way, work in ways.items():
                in_others: list[float] = []

                def at_work(work: Callable[[], Any] = work, found: list[float] = in_others) -> None:
                    found.append(work() or 0.0)

                wall, cpu = timed(at_work)
                cpu += in_others[0] if "workers" in way else 0.0
                if round_:
                    took[way].append((wall, cpu))
        figures = {
            way: [count / min(column) for column in zip(*found, strict=True)] for way, found in took.items()
        }
        base = figures[next(iter(figures))]
        print(
            f"\n{target} px, {count} pictures, best of {rounds}: images/s, and how many times the reference's"
        )
        for way, (by_wall, by_cpu) in figures.items():
            print(
                f"  {way:<44} wall {by_wall:8.3f} {by_wall / base[0]:6.2f}x"
                f"   CPU {by_cpu:8.3f} {by_cpu / base[1]:6.2f}x"
            )
    for pool in pools.values():
        pool.shutdown()


def resident(codec: Any, count: int, target: int) -> Callable[[], None]:
    """The encoder and code search alone, on pixels on the device."""
    pixels = torch.rand(min(count, 32), 3, target, target, device=codec.device) * 2 - 1

    @torch.inference_mode()
    def work() -> None:
        for _ in range(-(-count // len(pixels))):
            codec.nearest(codec.vectors(pixels))

    return work


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@torch.inference_mode()
def agreement(weights: str, is_random: bool, target: int = 256) -> None:
    images = []
    for image in photographs():
        plan = plan_crop(image.size, bucket_sizes(target))
        images.append(np.array(apply_crop(image, plan)))

    print(f"\nshare of codes equal on {len(images)} photographs of scikit-image at {target} px")
    reference = Reference(weights)
    wanted = [reference.encode(image) for image in images]
    fp32 = load_codec("chameleon", weights)
    plain = load_codec("chameleon", weights)
    plain._winograd = None  # type: ignore[attr-defined]
    bf16 = load_codec("chameleon", weights, precision="bf16")
    kind = "random weights" if is_random else "given weights"
    for name, codec in (("fp32", fp32), ("fp32, channels_last alone", plain), ("bf16", bf16)):
        some = images if name != "bf16" or BF16 else images[:2]
        codes = [codec.encode(image[None])[0] for image in some]
        same = sum(int((a == b).sum()) for a, b in zip(codes, wanted, strict=False))
        total = sum(a.size for a in codes)
        note = ""
        if codec.can_decode:
            found = [psnr(codec.decode(c[None])[0], i) for c, i in zip(codes, some, strict=True)]
            note = f", PSNR of the decoded picture {np.mean(found):.2f} dB"
        print(f"  chameleon ({kind}), {name:<26} {same / total:9.4%} of {total} as the reference{note}")

    mini = MiniCodec()
    codes = [mini.encode(image[None]) for image in images]
    mini.network.to(torch.bfloat16)
    low = []
    for pixels_in in images:
        pixels = (torch.from_numpy(pixels_in).permute(2, 0, 1)[None].float() / 127.5 - 1).bfloat16()
        features = F.normalize(mini.network.encoder(pixels).float(), dim=1)
        mini_codes = F.conv2d(features, mini.network.codebook.float()[:, :, None, None]).argmax(1)
        low.append(mini_codes.numpy().astype(np.int32))
    mini = MiniCodec()
    same = np.mean(np.concatenate([(a == b).ravel() for a, b in zip(codes, low, strict=True)]))
    for name, some in (("fp32", codes), ("bf16", low)):
        found = [psnr(mini.decode(c)[0], i) for c, i in zip(some, images, strict=True)]
        share = f" {same:.4%} of {sum(c.size for c in codes)} as fp32," if name == "bf16" else ""
        print(f"  mini (its own weights), {name}:{share} PSNR of the decoded picture {np.mean(found):.2f} dB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--images", type=int, default=256 if CUDA else 4)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--weights")
    given = parser.parse_args()
    if not CUDA:
        torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        weights = given.weights or str(random_weights(Path(folder) / "random.safetensors"))
        device = torch.cuda.get_device_name() if CUDA else f"CPU, {given.threads} threads"
        if not BF16:
            print("this processor has no units for bf16, so its speed is left out")
        print(f"{device}; torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
        agreement(weights, given.weights is None)
        speed(weights, given.targets, given.images, given.threads, given.rounds)


if __name__ == "__main__":
    main()
