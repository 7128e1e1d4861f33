"""Fits the Gaussian of good photographs that rasterloom/filtering/scorers/quality.py compares images with.

docs/quality.md says where the photographs come from, under which licences, and how to get them:

    python scripts/fit_niqe.py FOLDER [--out rasterloom/filtering/scorers/niqe.npz]

FOLDER holds the unpacked packages; each of the files named below must be in it, once.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rasterloom.filtering.scorers.quality import (
    PARAMETERS,
    Photographs,
    distance,
    patch_features,
    patches,
    sharpness,
)

LONG_SIDES = (640, 400, 256)  # pixels; the photographs have 1,280 to 6,000 and grow sharp when reduced
SHARP = 0.75  # patches at least so sharp as this share of the sharpest are taken, as in the paper

_LOMIRI = (
    "Bridge_by_Sander_Klootwijk",
    "Dragonfly_by_Bolly",
    "Picture_0B_by_freespace",
    "Picture_1A_by_freespace",
    "Wine_by_Jakkub_Mede",
    "aitzgorri_by_Aitzol_Berasategi",
    "free_by_Peter_Nerlich",
    "friends_by_Aitzol_Berasategi",
    "greentock_by_Peter_Nerlich",
    "life_by_Aitzol_Berasategi",
    "picosdeeuropa_by_Aitzol_Berasategi",
    "seeding_by_Clements_Engelhardt",
    "sunset_by_Aitzol_Berasategi",
    "Kleiber_by_Lukas_Baubkus",
)
_MATE = (
    "Aqua",
    "Blinds",
    "Dune",
    "FreshFlower",
    "Garden",
    "GreenMeadow",
    "LadyBird",
    "RainDrops",
    "Storm",
    "TwoWings",
    "Wood",
    "YellowFlower",
)
_PLASMA = (
    "BytheWater",
    "ColdRipple",
    "ColorfulCups",
    "EveningGlow",
    "FallenLeaf",
    "Grey",
    "Kite",
    "OneStandsOut",
    "Path",
    "summer_1am",
)
PHOTOGRAPHS = [
    *(f"{name}.jpg" for name in _LOMIRI),
    *(f"nature/{name}.jpg" for name in _MATE),
    *(f"{name}/contents/images/2560x1600.jpg" for name in _PLASMA),
]


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=PARAMETERS)
    arguments = parser.parse_args()
    lumas = [luma for path in find(arguments.folder) for luma in reduced(path)]
    photographs = fit(lumas)
    np.savez(
        arguments.out, mean=photographs.mean, covariance=photographs.covariance, median=photographs.median
    )
    print(f"{arguments.out}: fitted on {len(lumas)} pictures; their median NIQE is {photographs.median:.2f}")


def find(folder: Path) -> Iterator[Path]:
    for name in PHOTOGRAPHS:
        found = list(folder.rglob(name))
        if len(found) != 1:
            raise SystemExit(f"{name} is {len(found)} times below {folder}, not once; see docs/quality.md")
        yield found[0]


def reduced(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yields the luma [h, w] of a photograph at each of `LONG_SIDES`."""
    with Image.open(path) as photograph:
        photograph.load()
        for side in LONG_SIDES:
            scale = side / max(photograph.size)
            size = (round(photograph.width * scale), round(photograph.height * scale))
            pixels = np.asarray(photograph.convert("RGB").resize(size, Image.Resampling.LANCZOS))
            yield cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def fit(lumas: list[NDArray[np.uint8]]) -> Photographs:
    chosen = []
    for luma in lumas:
        sharp = sharpness(luma)
        features = patches(luma)
        chosen.append(features[(sharp > SHARP * sharp.max()) & np.isfinite(features).all(axis=1)])
    features = np.concatenate(chosen)
    gaussian = Photographs(features.mean(axis=0), np.cov(features.T), median=1.0)
    niqes = [distance(patch_features(luma), gaussian) for luma in lumas]
    return Photographs(gaussian.mean, gaussian.covariance, float(np.median(niqes)))


if __name__ == "__main__":
    main()
