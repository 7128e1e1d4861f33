"""512-px photographs, or captions, a second of each score on one core: prints a table.

python benchmarks/bench_scorers.py

CLIP has the shape of ViT-B/32 and random weights, which take as long as others.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from rates import rate
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from rasterloom.filtering.scorers.base import Batch
from rasterloom.filtering.scorers.clip import Clip
from rasterloom.filtering.scorers.registry import make_scorers
from rasterloom.recipe.filtering import Score

NAMES = ("quality", "flatness", "nsfw", "text_area", "caption", "language")
CAPTION = "a photograph of an astronaut in an orange suit, with a flag and a model of a shuttle behind her"


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")
    resize = Image.Resampling.LANCZOS
    pictures = [
        np.asarray(Image.open(folder / name).convert("RGB").resize((512, 512), resize)) for name in names * 4
    ]
    for name in NAMES:
        (scorer,) = make_scorers([Score(name=name)])
        captions: list[str | None] = [CAPTION] * (len(pictures) if scorer.sees else 1000)
        figure = rate(partial(scorer, Batch(pictures if scorer.sees else [], captions)), len(captions))
        print(f"{name:<28} {figure:>10,.1f} a second", flush=True)
    with tempfile.TemporaryDirectory() as checkpoint:
        vision = {"hidden_size": 768, "intermediate_size": 3072, "patch_size": 32}
        CLIPModel(CLIPConfig(vision_config=vision)).save_pretrained(checkpoint)
        CLIPImageProcessorPil().save_pretrained(checkpoint)
        clip = Clip(checkpoint, None)
        figure = rate(lambda: clip.embed_images(pictures), len(pictures))
    print(f"{'image tower of ViT-B/32':<28} {figure:>10,.1f} a second")


if __name__ == "__main__":
    main()
