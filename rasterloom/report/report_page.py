"""Report of a corpus: one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rasterloom import __version__
from rasterloom.report import charts, queries
from rasterloom.report.caption_figures import caption_figures
from rasterloom.report.dataset_card import data_card
from rasterloom.report.evaluation_table import read_evaluation
from rasterloom.report.failure_samples import failures
from rasterloom.report.gallery import galleries
from rasterloom.report.lineage_graph import lineage
from rasterloom.report.reconstructions import Crop, Decode, reconstructions
from rasterloom.report.training_runs import Samples, Stage, read_samples, read_stage
from rasterloom.storage.layout import INDEX_HTML
from rasterloom.utils import formatting
from rasterloom.utils.redact import PAGE, safe
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

CARD = "README.md"
MEMORY = "512MB"  # of DuckDB; larger joins go to the disk
TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class ReportInputs:
    """Inputs of a report; missing parts are left out of the page."""

    corpus: Corpus
    snapshots: dict[str, int]
    """Snapshot of each table; a table without one is left out."""
    records: tuple[Record, ...]
    """Records of the steps, in the order of the workflow."""
    stages: tuple[tuple[str, Path], ...]
    """Name and folder (``metrics.jsonl``, ``heldout.json``) of every training stage, in order."""
    samples: Path | None
    """Folder of ``samples.json`` and its images."""
    decode: Decode | None
    """Decoder of a token row's ``input_ids`` into its image; None: no reconstructions."""
    recipe_text: str
    crop: Crop | None = None
    """Function (stored image, key, target) -> encoded crop, for exact reconstruction pairs."""
    codec_note: str = ""
    """Note in place of images that the codec cannot decode."""


@dataclass(frozen=True)
class Headline:
    """Headline figure."""

    value: str
    name: str
    note: str = ""


def build_report(inputs: ReportInputs, out: Path) -> Path:
    """Write the self-contained ``out/index.html``, and return its path.

    Beside it lies ``README.md``, a data card of the same figures.
    """
    with queries.Tables(inputs.corpus, inputs.snapshots, MEMORY) as tables:
        shown = _gather(inputs, tables)
        stages = [stage for stage, _ in shown["stages"]]
        card = data_card(tables, inputs.records, shown["levels"], stages, inputs.recipe_text)
    out.mkdir(parents=True, exist_ok=True)
    (out / CARD).write_text(safe(card, PAGE), encoding="utf-8")
    path = out / INDEX_HTML
    path.write_text(environment().get_template("page.html").render(shown), encoding="utf-8")
    return path


def environment(package: str = "rasterloom.report") -> Environment:
    """Environment of a package's templates, for pages that strangers' text stands in."""
    loader = PackageLoader(package, "templates")
    # Captions, URLs and error texts come from strangers: everything is escaped.
    found = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_safe,
    )
    for function in (
        formatting.count,
        formatting.short,
        formatting.percent,
        formatting.size,
        formatting.duration,
        formatting.figure,
        formatting.moment,
        formatting.of_time,
    ):
        found.filters[function.__name__] = function
    found.filters["plain"] = formatting.plain
    return found


def _safe(value: Any) -> Any:
    """Prepare a value for a page: remove control characters and secrets, keep our own markup."""
    return safe(value, PAGE) if isinstance(value, str) and not isinstance(value, Markup) else value


def styles() -> Markup:
    return Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))


def identity(corpus: Corpus, records: Sequence[Record]) -> list[str]:
    """One line that identifies a version: recipe, tables and age."""
    last = max(records, key=lambda record: record.finished, default=None)
    if last is None or not last.finished:
        return [f"{corpus.name}@{corpus.ref}"]
    made = f"last step {formatting.moment(last.finished)}"
    return [f"{corpus.name}@{corpus.ref}", f"recipe {last.recipe}", made]


def _gather(inputs: ReportInputs, tables: queries.Tables) -> dict[str, Any]:
    levels = queries.funnel(tables, inputs.records)
    steps = lineage(tables, inputs.records)
    stages = [s for s in (read_stage(name, folder) for name, folder in inputs.stages) if s]
    samples = read_samples(inputs.samples) if inputs.samples else None
    tokens = queries.token_counts(tables)
    return {
        "corpus": inputs.corpus.name,
        "identity": identity(inputs.corpus, inputs.records),
        "version": __version__,
        "made": datetime.now(UTC),
        "styles": styles(),
        "headlines": _headlines(levels, tokens, stages, samples, inputs.records),
        "levels": levels,
        "galleries": galleries(tables),
        "failures": failures(tables),
        "histograms": [(h, charts.histogram(h)) for h in queries.histograms(tables)],
        "captions": caption_figures(tables),
        "buckets": queries.buckets(tables),
        "tokens": tokens,
        "tasks": queries.tasks(tables),
        "pairs": reconstructions(tables, inputs.decode, inputs.crop) if inputs.decode else [],
        "codec_note": inputs.codec_note,
        "stages": [(s, charts.loss_curve(s)) for s in stages],
        "samples": samples,
        "evaluation": read_evaluation(stages),
        "steps": steps,
        "slowest": max((s.record.seconds for s in steps), default=0.0) or 1.0,
        "graph": charts.lineage_graph(steps) if steps else Markup(),
        "recipe": inputs.recipe_text,
    }


def _headlines(
    levels: list[queries.Level],
    tokens: list[dict[str, Any]],
    stages: list[Stage],
    samples: Samples | None,
    records: tuple[Record, ...],
) -> list[Headline]:
    found = []
    for level in levels[:3]:
        share = f"{formatting.percent(level.rows, levels[0].rows)} of pairs" if level is not levels[0] else ""
        found.append(Headline(formatting.short(level.rows), level.name, share))
    if tokens:
        sequences = f"in {formatting.short(sum(t['sequences'] for t in tokens))} sequences"
        found.append(Headline(formatting.short(sum(t["tokens"] for t in tokens)), "tokens", sequences))
    if stages:
        last = stages[-1]
        loss = last.heldout_loss if last.heldout_loss is not None else last.last("loss")
        kind = "held-out loss" if last.heldout_loss is not None else "loss"
        if loss is not None:
            found.append(Headline(formatting.figure(loss), kind, f"after stage {last.name}"))
    for name, share in samples.checks if samples else ():
        found.append(Headline(share, name, "in drawn samples"))
    if records:
        seconds = sum(record.seconds for record in records)
        found.append(Headline(formatting.duration(seconds), "in all", f"{len(records)} steps"))
    return found
