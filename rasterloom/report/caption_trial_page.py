"""Page on captioners that were tried: images with old and new captions, and an estimate of the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rasterloom import __version__
from rasterloom.report.gallery import GalleryImage, images_of
from rasterloom.report.queries import Tables
from rasterloom.report.report_page import environment, styles
from rasterloom.versions.corpus import Corpus


@dataclass(frozen=True)
class TriedCaption:
    """Caption of one image, or why there is none."""

    name: str
    text: str
    found: tuple[str, ...]
    """Findings of the checks."""
    is_kept: bool
    """It passes the recipe's rule."""
    failure: str = ""


@dataclass(frozen=True)
class Estimate:
    """Cost of a captioner for all selected images, by those tried."""

    captioner: str
    tried: int
    failed: int
    images: int
    """Selected ones in all."""
    tokens_in: int
    tokens_out: int
    usd: float
    tried_tokens: int
    tried_usd: float


def write_caption_trial(
    corpus: Corpus,
    snapshots: dict[str, int],
    captions: Mapping[str, Sequence[TriedCaption]],
    estimates: Sequence[Estimate],
    out: Path,
) -> None:
    """Write a self-contained HTML file.

    Args:
        captions: of each key, in the order of the page.
    """
    with Tables(corpus, snapshots) as tables:
        images = images_of(tables, set(captions))
    rows: list[tuple[GalleryImage, Sequence[TriedCaption]]] = [
        (images[key], found) for key, found in captions.items() if key in images
    ]
    page = environment().get_template("caption_trial.html")
    text = page.render(
        corpus=corpus.name, rows=rows, estimates=estimates, styles=styles(), version=__version__
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
