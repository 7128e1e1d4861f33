"""Trains the `mini` codec and writes its weights file.

    python scripts/train_mini_codec.py --photographs DIR... --clipart DIR... --out mini.safetensors

Downloads nothing: `docs/mini.md` has the commands that fetch the pictures the shipped weights were trained
on. Scenes are drawn by `examples/quickstart/scenes.py`. PSNR is measured on the photographs inside the
scikit-image wheel and on scenes of other seeds, none of which are trained on.
"""

import argparse
import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from rasterloom.tokenize.codecs.mini import CODEBOOK_SIZE, DOWNSAMPLE, MiniCodec, MiniNetwork

Pixels = NDArray[np.uint8]  # [h, w, 3]

ROOT = Path(__file__).parents[1]
HELD_OUT = (  # every colour photograph in the scikit-image wheel
    "astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png",
    "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
PHOTOGRAPH_SIDES = (176, 256, 256, 360, 512)  # short sides that photographs are reduced to, pixels
CLIPART_SIDES = (96, 160, 224)
CLIPARTS = 1500
SCENES = 2500
SCENE_SEED, UNSEEN_SEED = 900_000_000, 990_000_000

SHARES = {"photographs": 0.5, "clipart": 0.2, "scenes": 0.3}
LEARNING_RATE = 2e-3
WARM_UP = 100  # steps
DECAY_FROM = 0.5  # of all steps
UNQUANTISED = 150  # steps before the codebook is set by k-means
CODEBOOK_DECAY = 0.99
COMMITMENT = 0.25
ABSOLUTE = 0.05  # weight of the absolute error beside the squared one


# --- pictures ---------------------------------------------------------------------------------------------


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def picture_files(folders: list[Path]) -> list[Path]:
    """All pictures below the folders, in an order that does not depend on where the folders lie."""
    endings = {".jpg", ".jpeg", ".png", ".webp"}
    files = [f for folder in folders for f in folder.rglob("*") if f.suffix.lower() in endings and f.is_file()]
    return sorted(files, key=lambda f: (f.name, f.stat().st_size))


def reduced(image: Image.Image, short: int) -> Image.Image:
    scale = short / min(image.size)
    if scale >= 1:
        return image
    w, h = (round(side * scale) for side in image.size)
    return image.resize((w, h), Image.Resampling.LANCZOS, reducing_gap=3)


def photographs(folders: list[Path]) -> Iterator[Pixels]:
    for file in picture_files(folders):
        with Image.open(file) as image:
            rgb = image.convert("RGB")
        for side in PHOTOGRAPH_SIDES:
            yield np.asarray(reduced(rgb, side))


def clipart(folders: list[Path]) -> Iterator[Pixels]:
    """Clip art on paper of some colour, every so many-th file of all."""
    rng = np.random.default_rng(0)
    files = picture_files(folders)
    for i in range(min(CLIPARTS, len(files))):
        with Image.open(files[i * len(files) // min(CLIPARTS, len(files))]) as image:
            rgba = reduced(image.convert("RGBA"), int(rng.choice(CLIPART_SIDES)))
        if max(rgba.size) > 4 * min(rgba.size):
            continue
        paper = Image.new("RGBA", rgba.size, (*rng.integers(0, 256, 3).tolist(), 255))
        if rng.random() < 0.4:
            paper.paste((255, 255, 255, 255), (0, 0, *rgba.size))
        yield np.asarray(Image.alpha_composite(paper, rgba).convert("RGB"))


def drawn_scenes(n: int, seed: int) -> Iterator[Pixels]:
    draw = load_module(ROOT / "examples" / "quickstart" / "scenes.py").draw_scene
    rng = np.random.default_rng(seed)
    for i in range(n):
        short = int(rng.choice([64, 96, 128, 160]))
        ratio = float(rng.choice([1, 1, 5 / 3]))
        size = (short, round(short * ratio)) if rng.random() < 0.5 else (round(short * ratio), short)
        yield np.asarray(draw(seed + i, size=size).image)


def random_crop(rng: Generator, picture: Pixels, side: int) -> Pixels:
    """A square of a picture, mirrored and turned at random, some in other colours."""
    h, w = picture.shape[:2]
    if min(h, w) < side:
        picture = np.pad(picture, ((0, max(0, side - h)), (0, max(0, side - w)), (0, 0)), mode="edge")
        h, w = picture.shape[:2]
    top, left = rng.integers(0, h - side + 1), rng.integers(0, w - side + 1)
    crop = picture[top : top + side, left : left + side]
    crop = crop[:: rng.choice([1, -1]), :: rng.choice([1, -1])]
    if rng.random() < 0.5:
        crop = crop.transpose(1, 0, 2)
    if rng.random() < 0.3:
        crop = crop[..., rng.permutation(3)]
    if rng.random() < 0.5:
        gain, shift = rng.uniform(0.7, 1.25, 3 if rng.random() < 0.5 else 1), rng.uniform(-24, 24)
        crop = np.clip(crop * gain + shift, 0, 255).astype(np.uint8)
    return crop


def batches(rng: Generator, pools: dict[str, list[Pixels]], pixels: int) -> Iterator[Tensor]:
    """Endless batches of `pixels` / 64 / 64 crops of 64 pixels and a quarter as many of 128, in turn."""
    kinds = [kind for kind in pools if pools[kind]]
    shares = np.array([SHARES[kind] for kind in kinds])
    while True:
        for side in (64, 128):
            chosen = rng.choice(kinds, pixels // side**2, p=shares / shares.sum())
            crops = [random_crop(rng, pools[kind][rng.integers(len(pools[kind]))], side) for kind in chosen]
            yield to_network(np.stack(crops))


def to_network(images: Pixels) -> Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


# --- the codebook -----------------------------------------------------------------------------------------


class CodebookTrainer:
    """Moves each code to the running mean of the vectors that chose it; codes nobody chooses start anew."""

    def __init__(self, codebook: Tensor) -> None:
        self.codebook = codebook
        self.counts = torch.ones(len(codebook))
        self.sums = codebook.clone()

    @torch.no_grad()
    def start(self, vectors: Tensor, rounds: int = 10) -> None:
        """k-means on unit vectors [n, d]."""
        self.codebook.copy_(vectors[torch.randperm(len(vectors))[: len(self.codebook)]])
        for _ in range(rounds):
            counts, sums = self._choices(vectors)
            means = torch.where(counts[:, None] > 0, sums, vectors[torch.randint(len(vectors), (len(counts),))])
            self.codebook.copy_(F.normalize(means, dim=1))
        self.counts, self.sums = torch.ones(len(self.codebook)), self.codebook.clone()

    @torch.no_grad()
    def update(self, vectors: Tensor) -> None:
        counts, sums = self._choices(vectors)
        self.counts.lerp_(counts, 1 - CODEBOOK_DECAY)
        self.sums.lerp_(sums, 1 - CODEBOOK_DECAY)
        idle = self.counts < 0.1
        if idle.any():
            self.sums[idle] = vectors[torch.randint(len(vectors), (int(idle.sum()),))]
            self.counts[idle] = 1.0
        self.codebook.copy_(F.normalize(self.sums, dim=1))

    def _choices(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        codes = (vectors @ self.codebook.T).argmax(1)
        counts = torch.bincount(codes, minlength=len(self.codebook)).float()
        return counts, torch.zeros_like(self.codebook).index_add_(0, codes, vectors)


# --- the optimiser ----------------------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for convolutions, taken as matrices [outputs, inputs x kernel].

    The step is the momentum with its singular values set to about one, scaled so that its entries are as
    large as Adam's usually are, so that both share a learning rate.
    """

    def __init__(self, params: list[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                matrix = orthogonal(p.grad.lerp(average, group["momentum"]).flatten(1))
                p.add_(matrix.view(p.shape), alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


def orthogonal(m: Tensor, rounds: int = 5) -> Tensor:
    """Newton-Schulz iteration towards the nearest matrix with orthogonal rows.

    Every iterate is a polynomial in m m^T times m, so the rounds work on small square matrices only.
    """
    if m.shape[0] > m.shape[1]:
        return orthogonal(m.T, rounds).T
    m = m / (m.norm() + 1e-7)
    gram, total = m @ m.T, torch.eye(len(m))
    for _ in range(rounds):
        factor = 3.4445 * torch.eye(len(m)) - 4.7750 * gram + 2.0315 * gram @ gram
        gram, total = factor @ gram @ factor, factor @ total
    return total @ m


# --- training ---------------------------------------------------------------------------------------------


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: linear warm-up, plateau, linear decay."""
    left = (steps - step) / (steps * (1 - DECAY_FROM))
    return min(1.0, (step + 1) / WARM_UP, left)


def running_mean(mean: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
    """Exponential mean over 500 steps, over fewer at the beginning."""
    return mean.lerp(value, max(1 / 500, 9 / (10 + int(count))))


def train(network: MiniNetwork, data: Iterator[Tensor], steps: int, args: argparse.Namespace) -> MiniNetwork:
    """Trains in place; returns the running mean of the weights, which reconstructs better."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = torch.optim.swa_utils.AveragedModel(network, avg_fn=running_mean, use_buffers=True)
    codebook = CodebookTrainer(network.codebook)
    matrices = [p for n, p in network.named_parameters() if "first.weight" in n or "second.weight" in n] if args.muon else []
    rest = [p for p in network.parameters() if all(p is not m for m in matrices)]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.Adam(rest, args.lr, betas=(0.9, 0.95))]
    if matrices:
        optimisers.append(Muon(matrices, args.lr))
    recent: list[Tensor] = []
    started, losses = time.monotonic(), []
    for step in range(steps):
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = args.lr * rate(step, steps)
        pixels = next(data)
        features = network.features(pixels)
        vectors = features.detach().permute(0, 2, 3, 1).reshape(-1, features.shape[1])
        quantised, commitment = features, torch.zeros(())
        if step == UNQUANTISED:
            codebook.start(torch.cat(recent))
        if step < UNQUANTISED:
            recent = [*recent[-40:], vectors]
        else:
            chosen = network.vectors(network.nearest(features.detach()))
            commitment = (features - chosen).square().sum(1).mean()
            quantised = features + (chosen - features).detach()
            codebook.update(vectors)
        error = network.decoder(quantised) - pixels
        squared = error.square().mean()
        loss = squared + ABSOLUTE * error.abs().mean() + COMMITMENT * commitment * args.commit
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        for optimiser in optimisers:
            optimiser.step()
        mean.update_parameters(network)
        losses.append(squared.item())
        if (step + 1) % 50 == 0:
            recently = float(np.mean(losses[-50:]))
            print(
                f"step {step + 1}/{steps}  {time.monotonic() - started:.0f} s  "
                f"squared error {recently:.5f} ({10 * np.log10(4 / recently):.2f} dB on training crops)",
                flush=True,
            )
        if (step + 1) % 200 == 0:
            save_file({n: v.half().contiguous() for n, v in mean.module.state_dict().items()}, str(args.out) + f".{step+1}")
    mean.module.codebook.copy_(F.normalize(mean.module.codebook, dim=1))
    result: MiniNetwork = mean.module
    return result


# --- measuring --------------------------------------------------------------------------------------------


def held_out_photographs(side: int) -> list[Pixels]:
    """The photographs of scikit-image, short side reduced to `side` (LANCZOS), middle square."""
    import skimage.data

    squares = []
    for name in HELD_OUT:
        image = reduced(Image.open(Path(skimage.data.__file__).parent / name).convert("RGB"), side)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        squares.append(np.asarray(image.crop((left, top, left + side, top + side))))
    return squares


def unseen_scenes(n: int, side: int) -> list[Pixels]:
    draw = load_module(ROOT / "examples" / "quickstart" / "scenes.py").draw_scene
    return [np.asarray(draw(UNSEEN_SEED + i, size=(side, side)).image) for i in range(n)]


def psnr(codec: MiniCodec, pictures: list[Pixels]) -> list[float]:
    """Peak signal-to-noise ratio of each reconstruction in dB; pictures of one size."""
    images = np.stack(pictures)
    error = (codec.decode(codec.encode(images)).astype(float) - images) ** 2
    return [float(10 * np.log10(255**2 / e)) for e in error.mean((1, 2, 3))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--clipart", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("mini.safetensors"))
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=.998)
    parser.add_argument("--commit", type=float, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--muon", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    t = time.time()
    pools = {
        "photographs": list(photographs(args.photographs)),
        "clipart": list(clipart(args.clipart)),
        "scenes": list(drawn_scenes(SCENES, SCENE_SEED)),
    }
    print({k: len(v) for k, v in pools.items()}, time.time() - t, flush=True)
    digest = hashlib.sha256()
    for pool in pools.values():
        for picture in pool:
            digest.update(picture.tobytes())
    data = batches(rng, pools, args.batch * 64 * 64)
    network = train(MiniNetwork(args.width), data, args.steps, args)
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, args.out)
    codec = MiniCodec(args.out)
    p = psnr(codec, held_out_photographs(256))
    print("photographs", np.round(p, 2), np.mean(p))
    for side in (64, 128):
        u = unseen_scenes(200, side)
        print("scenes", side, np.mean(psnr(codec, u)))
    c = codec.encode(np.stack(unseen_scenes(200, 128)))
    print("codes used by scenes", len(np.unique(c)), "by photos", len(np.unique(codec.encode(np.stack(held_out_photographs(256))))))


if __name__ == "__main__":
    main()
