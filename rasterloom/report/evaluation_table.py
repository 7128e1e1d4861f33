"""Table of evaluation metrics, a column for each stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rasterloom.report.training_runs import Stage
from rasterloom.utils import formatting


@dataclass(frozen=True)
class Evaluation:
    """Metrics of stages: a column for each stage, a row for each metric."""

    stages: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def read_evaluation(stages: Sequence[Stage]) -> Evaluation | None:
    """Build the table from the stages' folders; None if none was evaluated."""
    found = [(stage.name, stage.evaluation) for stage in stages if stage.evaluation]
    if not found:
        return None
    lines: dict[str, list[str]] = {}
    for number, (_, evaluation) in enumerate(found):
        for name, value in _figures(evaluation):
            lines.setdefault(name, ["–"] * len(found))[number] = value
    notes = dict.fromkeys(str(note) for _, evaluation in found for note in evaluation.get("notes") or ())
    return Evaluation(
        tuple(name for name, _ in found), tuple((name, tuple(of)) for name, of in lines.items()), tuple(notes)
    )


def _figures(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    (checkpoint,) = evaluation["checkpoints"]
    held = checkpoint["heldout"]
    lines = [
        ("measured on rows of", f"{evaluation['target']} ({formatting.count(held['all']['rows'])} held out)")
    ]
    lines.append(("held-out loss", _figure(held["all"]["loss"])))
    for kind in ("tasks", "buckets"):
        lines += [(f"– {formatting.plain(name)}", _figure(of["loss"])) for name, of in held[kind].items()]
    for name, key in (("CLIP score", "clip"), ("CLIP-FD", "clip_fd")):
        if checkpoint[key] is not None:
            lines.append((name, _figure(checkpoint[key])))
    if evaluation["clip_of_heldout"] is not None:
        lines.append(("CLIP score of the held-out images", _figure(evaluation["clip_of_heldout"])))
    if evaluation["codec"]:
        codec = evaluation["codec"]
        lines.append(("what the codec keeps", f"{codec['psnr']:.1f} dB, SSIM {codec['ssim']:.3f}"))
    return lines


def _figure(value: float | None) -> str:
    return "–" if value is None else formatting.figure(value)
