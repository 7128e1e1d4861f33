"""Images to train and to measure the `mini` codec on."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # [h, w, 3]

ROOT = Path(__file__).parents[1]
HELD_OUT = (  # every colour photograph in the scikit-image wheel
    "astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png",
    "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
PHOTOGRAPH_SIDES = (176, 256, 256, 360, 512)  # short sides that photographs are reduced to, pixels
CLIPART_SIDES = (96, 160, 224)
CLIPARTS = 1500
UNSEEN_SEED = 990_000_000


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def picture_files(folders: list[Path]) -> list[Path]:
    """All images below the folders, in an order without their paths."""
    endings = {".jpg", ".jpeg", ".png", ".webp"}
    files = [
        f for folder in folders for f in folder.rglob("*") if f.suffix.lower() in endings and f.is_file()
    ]
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
    """Clip art on coloured paper, every so many-th file."""
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
    """A square of an image, mirrored, turned and recoloured at random."""
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
        gain, shift = rng.uniform(0.35, 1.3, 3 if rng.random() < 0.5 else 1), rng.uniform(-24, 24)
        crop = np.clip(crop * gain + shift, 0, 255).astype(np.uint8)
    return crop


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
