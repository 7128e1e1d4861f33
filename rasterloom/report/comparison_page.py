"""Page that compares two versions of a corpus or two training runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rasterloom import __version__
from rasterloom.report import charts, queries
from rasterloom.report.diff_page import LONGEST, Compared
from rasterloom.report.evaluation_table import read_evaluation
from rasterloom.report.gallery import GalleryImage
from rasterloom.report.report_page import environment, identity, styles
from rasterloom.report.training_runs import ALL, Samples, Stage, read_samples, read_stage
from rasterloom.schema import StepKind
from rasterloom.utils import formatting
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

SHOWN = 12  # prompts
REPEATED = ("train.stages",)  # in every stage's settings: those of all stages
PLACES = 3  # images of a prompt on either side


@dataclass(frozen=True)
class Operand:
    """Baseline or candidate of a comparison. Missing parts are left out of the page."""

    name: str
    corpus: Corpus
    snapshots: dict[str, int]
    """Table -> snapshot; none of a run of training: then the other's data are left out, too."""
    records: tuple[Record, ...]
    stages: tuple[tuple[str, Path], ...]
    """Name and folder of every training stage, in order, as in ``ReportInputs``."""
    samples: Path | None = None


@dataclass(frozen=True)
class Line:
    """Figure of both operands as text. ``change`` is B minus A, empty if one is missing."""

    name: str
    a: str
    b: str
    change: str = ""
    head: bool = False  # begins a group


@dataclass(frozen=True)
class StagePair:
    """Stage of both operands, by its number."""

    title: str
    chart: Any
    figures: list[Line]
    drawings: list[tuple[str, GalleryImage, GalleryImage]]


def write_comparison(a: Operand, b: Operand, compared: Sequence[Compared], out: Path) -> None:
    """Write a self-contained HTML file.

    Args:
        compared: what differs between their tables, row by row; none where that was not asked.
    """
    funnels, tokens = [], []
    of_data = bool(a.snapshots and b.snapshots)
    for side in (a, b):
        with queries.Tables(side.corpus, side.snapshots if of_data else {}) as tables:
            funnels.append(queries.funnel(tables, side.records))
            tokens.append(sum(row["tokens"] for row in queries.token_counts(tables)))
    stages = [_numbered(side.stages) for side in (a, b)]
    samples = [read_samples(side.samples) if side.samples else None for side in (a, b)]
    page = (
        environment()
        .get_template("comparison.html")
        .render(
            a=a,
            b=b,
            told=[identity(side.corpus, side.records) for side in (a, b)],
            headlines=_headlines(funnels, tokens, stages),
            funnel=_funnel(*funnels),
            stages=[
                _stage_pair(stages[0].get(n), stages[1].get(n)) for n in sorted({*stages[0], *stages[1]})
            ],
            drawn=_drawn(*samples),
            drawn_by=_drawn_by(*samples),
            evaluation=read_evaluation(
                [
                    replace(s, name=f"{side} {s.name}")
                    for side, of in zip("AB", stages, strict=True)
                    for s in of.values()
                ]
            ),
            settings=_settings(a.records, b.records),
            compared=compared,
            styles=styles(),
            version=__version__,
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


def _numbered(stages: Iterable[tuple[str, Path]]) -> dict[int, Stage]:
    """Stages by number, the ``2`` of ``2-768``."""
    read = ((name, read_stage(name, folder)) for name, folder in stages)
    return {int(name.partition("-")[0]): stage for name, stage in read if stage}


def count_line(name: str, sides: Sequence[int | None], head: bool = False) -> Line:
    """Line of a count: rows, steps or tokens."""
    a, b = sides
    change = "" if a is None or b is None else "the same" if a == b else f"{b - a:+,}"
    of_a, of_b = ("–" if number is None else formatting.count(number) for number in sides)
    return Line(name, of_a, of_b, change.replace("-", "−"), head)


def figure_line(name: str, sides: Sequence[float | None]) -> Line:
    """Line of a measured figure, with its change in percent of A's."""
    a, b = sides
    change = ""
    if a and b is not None:
        change = "the same" if a == b else f"{100 * (b - a) / abs(a):+.1f} %"
    of_a, of_b = ("–" if value is None else formatting.figure(value) for value in sides)
    return Line(name, of_a, of_b, change.replace("-", "−"))


def _headlines(
    funnels: Sequence[list[queries.Level]], tokens: Sequence[int], stages: Sequence[dict[int, Stage]]
) -> list[Line]:
    named = [{level.name: level.rows for level in levels[:3]} for levels in funnels]
    found = [count_line(name, [of.get(name) for of in named]) for name in {**named[0], **named[1]}]
    if any(tokens):
        found.append(count_line("tokens", [number or None for number in tokens]))
    if any(stages):
        last = [of[max(of)] if of else None for of in stages]
        found.append(figure_line("held-out loss", [stage.heldout_loss if stage else None for stage in last]))
    return found


def _funnel(a: list[queries.Level], b: list[queries.Level]) -> list[Line]:
    """Levels of the funnel with their losses. Equal losses are merged into one line."""
    levels = [{level.name: level for level in side} for side in (a, b)]
    found = []
    for name in {**levels[0], **levels[1]}:
        of = [side.get(name) for side in levels]
        found.append(count_line(name, [level.rows if level else None for level in of], head=True))
        found += _losses_at(*of)
    return found


def _losses_at(a: queries.Level | None, b: queries.Level | None) -> list[Line]:
    of_a, of_b = ({loss.reason: loss for loss in level.losses} if level else {} for level in (a, b))
    found, alike = [], []
    for reason in sorted({**of_a, **of_b}):
        meaning = (of_a.get(reason) or of_b[reason]).meaning
        rows = [of[reason].rows if reason in of else 0 for of in (of_a, of_b)]
        if rows[0] == rows[1]:
            alike.append(rows[0])
        else:
            gone = [number if level else None for number, level in zip(rows, (a, b), strict=True)]
            found.append((max(rows), count_line(meaning or formatting.plain(reason), gone)))
    lines = [line for _, line in sorted(found, key=lambda item: -item[0])]
    if alike:
        name = f"{len(alike)} reason{'s' if len(alike) > 1 else ''} of as many rows"
        lines.append(count_line(name, [sum(alike)] * 2))
    return lines


def _stage_pair(a: Stage | None, b: Stage | None) -> StagePair:
    sides = (a, b)
    names = [stage.name if stage else "–" for stage in sides]
    title = f"Stage {names[0]}" if names[0] == names[1] else f"Stage {names[0]} of A, {names[1]} of B"
    figures = [
        count_line("steps", [s.last_step if s else None for s in sides]),
        count_line("tokens", [round(s.total("tokens")) if s else None for s in sides]),
        figure_line("tokens/s", [s.last("tokens_per_s") if s else None for s in sides]),
        figure_line("loss, the last 20 steps", [s.last("loss") if s else None for s in sides]),
        figure_line("held-out loss", [s.heldout_loss if s else None for s in sides]),
    ]
    tasks = [s.tasks[1] if s else {} for s in sides]
    if max(map(len, tasks)) > 2:  # one task and all of them are the same
        figures += _heldout(tasks)
    figures += _heldout([s.after if s else {} for s in sides])
    return StagePair(title, charts.two_loss_curves(a, b), figures, _drawings(a, b))


def _heldout(sides: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[Line]:
    """Held-out losses by task or bucket."""
    names = [name for name in {**sides[0], **sides[1]} if name != ALL]
    return [
        figure_line(f"– {formatting.plain(name)}", [of[name]["loss"] if name in of else None for of in sides])
        for name in names
    ]


def _drawings(a: Stage | None, b: Stage | None) -> list[tuple[str, GalleryImage, GalleryImage]]:
    """Last sampled images of the prompts that both stages share."""
    of_a, of_b = (
        {prompt: images[-1] for prompt, images in s.drawings.prompts} if s and s.drawings else {}
        for s in (a, b)
    )
    return [(prompt, of_a[prompt], of_b[prompt]) for prompt in of_a if prompt in of_b][:SHOWN]


def _drawn(
    a: Samples | None, b: Samples | None
) -> list[tuple[str, tuple[GalleryImage, ...], tuple[GalleryImage, ...]]]:
    """Samples of the prompts that both operands share."""
    of_a, of_b = (dict(samples.prompts) if samples else {} for samples in (a, b))
    shared = [prompt for prompt in of_a if prompt in of_b][:SHOWN]
    return [(prompt, of_a[prompt][:PLACES], of_b[prompt][:PLACES]) for prompt in shared]


def _drawn_by(a: Samples | None, b: Samples | None) -> list[tuple[str, str]]:
    """Settings of either side's samples, or the one of both."""
    told = [samples.settings if samples else "" for samples in (a, b)]
    sides = [("Both", told[0])] if told[0] == told[1] else list(zip("AB", told, strict=True))
    return [(side, settings) for side, settings in sides if settings]


def _settings(a: Sequence[Record], b: Sequence[Record]) -> list[tuple[str, Line]]:
    """Differing settings, with their step. A step of one operand alone is one line."""
    of_a, of_b = ({_step(record): record for record in records} for records in (a, b))
    found: list[tuple[str, Line]] = []
    for step in {**of_a, **of_b}:
        if step not in of_a or step not in of_b:
            found.append((step, Line("the step", *(("made", "–") if step in of_a else ("–", "made")))))
            continue
        flat_a, flat_b = dict(_flat(of_a[step].config)), dict(_flat(of_b[step].config))
        for name in {**flat_a, **flat_b}:
            if name not in REPEATED and flat_a.get(name) != flat_b.get(name):
                found.append((step, Line(name, _word(flat_a.get(name)), _word(flat_b.get(name)))))
    return found


def _step(record: Record) -> str:
    """A step's name. Of training with its number alone, as stages are compared by it."""
    return record.step.partition("-")[0] if record.kind is StepKind.TRAIN else record.step


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _word(value: Any) -> str:
    return "–" if value is None else formatting.plain(str(value), limit=2 * LONGEST)
