"""Page on the effect of another keep rule, with sample images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rasterloom import __version__
from rasterloom.report.gallery import Gallery, images_of
from rasterloom.report.queries import Tables
from rasterloom.report.report_page import environment, styles
from rasterloom.versions.corpus import Corpus


@dataclass(frozen=True)
class Group:
    """Images newly kept or dropped for one reason, with sample keys."""

    reason: str
    rows: int
    kept: bool
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """Two keep rules and the images they select."""

    corpus: str
    rule_before: str
    rule_after: str
    rows: int
    kept_before: int
    kept_after: int
    newly_kept: int
    newly_dropped: int


def write_trial(
    corpus: Corpus, snapshots: dict[str, int], trial: Trial, groups: Sequence[Group], out: Path
) -> None:
    """Write a self-contained HTML file.

    Args:
        snapshots: of the tables images and scores
    """
    with Tables(corpus, snapshots) as tables:
        images = images_of(tables, {key for group in groups for key in group.keys})
    galleries = [
        Gallery(g.reason, g.rows, g.kept, tuple(images[key] for key in g.keys if key in images))
        for g in groups
    ]
    page = environment().get_template("trial.html")
    text = page.render(trial=trial, galleries=galleries, styles=styles(), version=__version__)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
