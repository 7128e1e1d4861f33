"""Trains the `mini` codec and writes its weights file, or measures one.

    python scripts/train_mini_codec.py --photographs DIR... --clipart DIR... --out mini.safetensors
    python scripts/train_mini_codec.py --measure rasterloom/tokenize/codecs/mini.safetensors

Downloads nothing: `docs/mini.md` has the commands that fetch the images the shipped weights were trained
on. Scenes are drawn by `examples/quickstart/scenes.py`. PSNR is measured on the photographs inside the
scikit-image wheel and on scenes of other seeds, none of which are trained on.
"""

import argparse
import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from codec_pictures import (
    HELD_OUT,
    Pixels,
    clipart,
    drawn_scenes,
    held_out_photographs,
    photographs,
    picture_files,
    random_crop,
    unseen_scenes,
)
from numpy.random import Generator
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from rasterloom.tokenize.codecs.mini import Block, MiniCodec, MiniNetwork
from rasterloom.train.optim.muon import MuonAdamW

SCENES = 2500
SCENE_SEED = 900_000_000
PHOTOGRAPHS_SHARE = 0.5  # of the crops; clip art and scenes share the rest 2 : 3
STEPS = 3000
BATCH = 32  # crops of 64 x 64 pixels, or as many pixels in larger ones
LEARNING_RATE = 2e-3
REFINING_RATE = 1e-3  # where training goes on from earlier weights
WARM_UP = 100  # steps
DECAY_FROM = 0.5  # of all steps
UNQUANTISED = 150  # steps before the codebook is set by k-means
CODEBOOK_DECAY = 0.99
COMMITMENT = 0.25
ABSOLUTE = 0.05  # weight of the absolute error beside the squared one


def batches(rng: Generator, pools: dict[str, list[Pixels]], share: float) -> Iterator[Tensor]:
    """Endless batches: `BATCH` crops of 64 pixels, then a quarter as many of 128, in turn."""
    wanted = {"photographs": share, "clipart": 0.4 * (1 - share), "scenes": 0.6 * (1 - share)}
    kinds = [kind for kind in pools if pools[kind]]
    shares = np.array([wanted[kind] for kind in kinds])
    while True:
        for side in (64, 128):
            chosen = rng.choice(kinds, BATCH * 64**2 // side**2, p=shares / shares.sum())
            crops = [random_crop(rng, pools[kind][rng.integers(len(pools[kind]))], side) for kind in chosen]
            yield to_network(np.stack(crops))


def to_network(images: Pixels) -> Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


# --- the codebook -----------------------------------------------------------------------------------------


class CodebookTrainer:
    """Moves each code to the running mean of its vectors. Codes nobody chooses start anew."""

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
            means = torch.where(
                counts[:, None] > 0, sums, vectors[torch.randint(len(vectors), (len(counts),))]
            )
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


# --- training ---------------------------------------------------------------------------------------------


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: linear warm-up, plateau, linear decay."""
    left = (steps - step) / (steps * (1 - DECAY_FROM))
    return min(1.0, (step + 1) / WARM_UP, left)


def running_mean(mean: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
    """Exponential mean over 500 steps, over fewer at the beginning."""
    return mean.lerp(value, max(1 / 500, 9 / (10 + int(count))))


class Kernels:
    """Weights of convolutions as matrices [outputs, inputs x kernel], which Muon takes."""

    def __init__(self, kernels: Sequence[Tensor]) -> None:
        self.kernels = kernels
        self.matrices = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]

    def take_gradients(self) -> None:
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)

    @torch.no_grad()
    def update(self) -> None:
        """Copy the stepped matrices into the network."""
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            kernel.copy_(matrix.view_as(kernel))


def train(network: MiniNetwork, data: Iterator[Tensor], steps: int, *, refine: bool = False) -> MiniNetwork:
    """Trains in place. Returns the running mean of the weights, which reconstructs better.

    `refine` goes on from trained weights: at a lower learning rate, with the codebook they have.
    """
    unquantised, learning_rate = (0, REFINING_RATE) if refine else (UNQUANTISED, LEARNING_RATE)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = torch.optim.swa_utils.AveragedModel(network, avg_fn=running_mean, use_buffers=True)
    codebook = CodebookTrainer(network.codebook)
    blocks = [block for block in network.modules() if isinstance(block, Block)]
    kernels = Kernels([conv.weight for block in blocks for conv in (block.first, block.second)])
    rest = [p for p in network.parameters() if all(p is not kernel for kernel in kernels.kernels)]
    groups = [{"params": kernels.matrices, "muon": True}, {"params": rest, "muon": False}]
    for group in groups:
        group["weight_decay"] = 0.0
    optimiser = MuonAdamW(groups, lr=learning_rate, betas=(0.9, 0.95))
    recent: deque[Tensor] = deque(maxlen=40)
    losses: list[float] = []
    started = time.monotonic()
    for step in range(steps):
        network.zero_grad()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * rate(step, steps)
        pixels = next(data)
        features = network.features(pixels)
        vectors = features.detach().permute(0, 2, 3, 1).reshape(-1, features.shape[1])
        quantised, commitment = features, torch.zeros(())
        if step < unquantised:
            recent.append(vectors)
        else:
            if step == unquantised and not refine:
                codebook.start(torch.cat(list(recent)))
            chosen = network.vectors(network.nearest(features.detach()))
            commitment = (features - chosen).square().sum(1).mean()
            quantised = features + (chosen - features).detach()
            codebook.update(vectors)
        error = network.decoder(quantised) - pixels
        squared = error.square().mean()
        (squared + ABSOLUTE * error.abs().mean() + COMMITMENT * commitment).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        kernels.take_gradients()
        optimiser.step()
        kernels.update()
        mean.update_parameters(network)
        losses.append(squared.item())
        if (step + 1) % 50 == 0:
            recently = 10 * np.log10(4 / np.mean(losses[-50:]))
            seconds = time.monotonic() - started
            print(
                f"step {step + 1} of {steps}  {seconds:.0f} s  {recently:.2f} dB on training crops",
                flush=True,
            )
    result = cast(MiniNetwork, mean.module)
    result.codebook.copy_(F.normalize(result.codebook, dim=1))
    return result


# --- measuring --------------------------------------------------------------------------------------------


def psnr(codec: MiniCodec, pictures: list[Pixels]) -> list[float]:
    """Peak signal-to-noise ratio of each reconstruction in dB; images of one size."""
    images = np.stack(pictures)
    error = (codec.decode(codec.encode(images)).astype(float) - images) ** 2
    return [float(10 * np.log10(255**2 / e)) for e in error.mean((1, 2, 3))]


def measure(path: Path) -> dict[str, float]:
    """Mean PSNR in dB of a weights file on held-out images. Prints each photograph's."""
    codec = MiniCodec(path)
    figures = psnr(codec, held_out_photographs(256))
    for name, figure in zip(HELD_OUT, figures, strict=True):
        print(f"  {name:24} {figure:.2f} dB")
    return {
        "photographs_256": float(np.mean(figures)),
        "scenes_128": float(np.mean(psnr(codec, unseen_scenes(200, 128)))),
        "scenes_64": float(np.mean(psnr(codec, unseen_scenes(200, 64)))),
    }


def draw_pairs(path: Path, picture: Path) -> None:
    """Saves held-out photographs (their middle) and unseen scenes, each above its reconstruction."""
    codec = MiniCodec(path)
    rows = []
    photographs, scenes = held_out_photographs(256), unseen_scenes(60, 128)
    for originals, side in (([photographs[i] for i in (0, 1, 2, 8)], 160), (scenes[10::12], 128)):
        decoded = codec.decode(codec.encode(np.stack(originals)))
        edge = (originals[0].shape[0] - side) // 2
        for images in (originals, decoded):
            rows.append(np.concatenate([i[edge : edge + side, edge : edge + side] for i in images], axis=1))
    sheet = np.concatenate(rows)
    Image.fromarray(sheet // 4 * 4 + 2).save(picture, optimize=True)  # 6 bits a channel: a smaller file


def save(network: MiniNetwork, path: Path, about: dict[str, object]) -> None:
    """Writes the weights in half precision, with their description beside."""
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, path, metadata={name: json.dumps(value) for name, value in about.items()})


def about(args: argparse.Namespace, pools: dict[str, list[Pixels]]) -> dict[str, object]:
    """Description of a training: steps, seed, names of the photographs, a digest of all pixels."""
    digest = hashlib.sha256()
    for pool in pools.values():
        for picture in pool:
            digest.update(picture.tobytes())
    return {
        "steps": args.steps,
        "seed": args.seed,
        "share_of_photographs": args.share,
        "refined_from": hashlib.sha256(args.refine.read_bytes()).hexdigest() if args.refine else None,
        "photographs": [file.name for file in picture_files(args.photographs)],
        "pictures": {kind: len(pool) for kind, pool in pools.items()},
        "pictures_sha256": digest.hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--clipart", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("mini.safetensors"))
    parser.add_argument("--steps", type=int, default=STEPS, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--share", type=float, default=PHOTOGRAPHS_SHARE, help="of photographs, default %(default)s"
    )
    parser.add_argument("--refine", type=Path, metavar="WEIGHTS", help="go on from these weights")
    parser.add_argument("--measure", type=Path, metavar="WEIGHTS", help="train nothing, measure this file")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw originals and reconstructions")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    if not args.measure:
        torch.manual_seed(args.seed)
        pools = {
            "photographs": list(photographs(args.photographs)),
            "clipart": list(clipart(args.clipart)),
            "scenes": list(drawn_scenes(SCENES, SCENE_SEED)),
        }
        print("pictures:", {kind: len(pool) for kind, pool in pools.items()}, flush=True)
        network = MiniCodec(args.refine).network.requires_grad_() if args.refine else MiniNetwork()
        data = batches(np.random.default_rng(args.seed), pools, args.share)
        network = train(network.train(), data, args.steps, refine=bool(args.refine))
        made_of = about(args, pools)
        save(network, args.out, made_of)
        save(network, args.out, made_of | {"psnr": measure(args.out)})
    weights = args.measure or args.out
    print(weights, json.dumps(measure(weights)))
    if args.picture:
        draw_pairs(weights, args.picture)


if __name__ == "__main__":
    main()
