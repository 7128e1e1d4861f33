"""Reading of the folders of training and sampling; missing files are tolerated."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from rasterloom.report.gallery import GalleryImage, gallery_image
from rasterloom.storage.layout import EVALUATION, GRID, SAMPLES_JSON
from rasterloom.utils import formatting

ALL = "all"  # buckets together
SAMPLES = 32  # images at most
SAMPLE_LONGEST = 384  # pixels
STRIP = 8  # steps of a stage whose drawings are shown
STRIP_PROMPTS = 6  # and prompts
STRIP_LONGEST = 192  # pixels


@dataclass(frozen=True)
class Stage:
    """Training stage: measured steps in order, and held-out losses."""

    name: str
    steps: tuple[dict[str, Any], ...]
    before: dict[str, dict[str, Any]]  # bucket or ALL -> loss, tokens, rows: held out, as the stage began
    after: dict[str, dict[str, Any]]  # the same as it ended
    tasks: tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]] = ({}, {})  # by task: before, after
    heldout_curve: tuple[tuple[float, float], ...] = ()  # (step, loss) of all held-out rows together
    drawings: "Drawings | None" = None
    evaluation: dict[str, Any] | None = None  # what `rasterloom evaluate` found

    @property
    def last_step(self) -> int:
        """Last measured step; ``log_every`` leaves steps out."""
        return int(self.steps[-1]["step"]) if self.steps else 0

    @property
    def heldout_loss(self) -> float | None:
        """Held-out loss of all buckets together at the stage's end."""
        return self.after[ALL]["loss"] if ALL in self.after else None

    @property
    def heldout_buckets(self) -> dict[str, float]:
        """Held-out loss of each bucket at the stage's end."""
        return {name: row["loss"] for name, row in self.after.items() if name != ALL and row["loss"] > 0}

    def series(self, name: str) -> list[tuple[float, float]]:
        """List (step, value) of all finite values."""
        return [(row["step"], row[name]) for row in self.steps if _finite(row.get(name))]

    def last(self, name: str, over: int = 20) -> float | None:
        """Mean of the last few values, or None without any."""
        values = [value for _, value in self.series(name)][-over:]
        return sum(values) / len(values) if values else None

    @property
    def captions(self) -> dict[str, int]:
        """Rows trained on by name of their caption, of several."""
        found: dict[str, int] = {}
        for step in self.steps:
            named = step.get("captions")
            for name, row in (named if isinstance(named, dict) else {}).items():
                found[name] = found.get(name, 0) + int(_get(row, "rows") or 0)
        return found

    def total(self, name: str) -> float:
        return sum(value for _, value in self.series(name))


def read_stage(name: str, folder: Path) -> Stage | None:
    """Read ``metrics.jsonl`` and ``heldout.json``; None if there is neither.

    A stage that went on from a checkpoint has measured some steps twice: the later line counts. A last line
    that was cut off is left out.
    """
    rows: dict[float, dict[str, Any]] = {}
    for line in _text(folder / "metrics.jsonl").splitlines():
        row = _json(line)
        if isinstance(row, dict) and _finite(row.get("step")):
            rows[row["step"]] = row
    found = _json(_text(folder / "heldout.json"))
    heldout = found if isinstance(found, dict) else {}
    before, after = (_losses(heldout.get(moment)) for moment in ("start", "end"))
    if not after:
        after = _losses(heldout)
    if not rows and not after:
        return None
    evaluation = _json(_text(folder / EVALUATION))
    return Stage(
        name,
        tuple(rows[step] for step in sorted(rows)),
        before,
        after,
        tasks=(_losses(heldout.get("start"), "tasks"), _losses(heldout.get("end"), "tasks")),
        heldout_curve=_curve(heldout.get("steps")),
        drawings=read_drawings(folder / "samples"),
        evaluation=evaluation if isinstance(evaluation, dict) else None,
    )


def _losses(found: Any, kind: str = "buckets") -> dict[str, dict[str, Any]]:
    """``{"all": ..., kind: {name: ...}}`` as one mapping, entries without a loss left out."""
    if not isinstance(found, dict):
        return {}
    named = found.get(kind)
    listed = {ALL: found.get("all", found), **(named if isinstance(named, dict) else {})}
    return {name: value for name, value in listed.items() if _finite(_get(value, "loss"))}


def _curve(steps: Any) -> tuple[tuple[float, float], ...]:
    found = steps if isinstance(steps, dict) else {}
    measured = {
        int(step): _get(_get(losses, "all"), "loss") for step, losses in found.items() if step.isdecimal()
    }
    return tuple((float(step), loss) for step, loss in sorted(measured.items()) if _finite(loss) and loss > 0)


@dataclass(frozen=True)
class Drawings:
    """Images of the same prompts and seed, sampled during a stage."""

    steps: tuple[int, ...]
    prompts: tuple[tuple[str, tuple[GalleryImage, ...]], ...]  # of each prompt its images, by step


def read_drawings(folder: Path) -> Drawings | None:
    """Read ``step-<n>.json`` and their images, of evenly spaced steps. None if there are none."""
    found = []
    for path in sorted(folder.glob("step-*.json")) if folder.is_dir() else ():
        record = _json(_text(path))
        if not isinstance(record, dict) or not _finite(record.get("step")):
            continue
        prompts = [formatting.plain(str(prompt)) for prompt in (record.get("prompts") or ())[:STRIP_PROMPTS]]
        made = (
            _file_image(folder, f"{path.stem}-{i}.png", prompt, STRIP_LONGEST)
            for i, prompt in enumerate(prompts)
        )
        images = [one for one in made if one]
        if images and len(images) == len(prompts):
            found.append((int(record["step"]), list(zip(prompts, images, strict=True))))
    if not found:
        return None
    last = len(found) - 1
    shown = (
        [found[i] for i in sorted({round(i * last / (STRIP - 1)) for i in range(STRIP)})] if last else found
    )
    shown = [one for one in shown if len(one[1]) == len(shown[-1][1])]
    rows = [(prompt, tuple(of[1][i][1] for of in shown)) for i, (prompt, _) in enumerate(shown[-1][1])]
    return Drawings(tuple(step for step, _ in shown), tuple(rows))


@dataclass(frozen=True)
class Skill:
    """Images that show a skill, with the 95 % interval."""

    name: str
    right: int
    asked: int
    low: float
    high: float


@dataclass(frozen=True)
class Samples:
    """Sampled images by prompt, with the share that passed the checks."""

    prompts: tuple[tuple[str, tuple[GalleryImage, ...]], ...]
    grid: GalleryImage | None
    settings: str
    checks: tuple[tuple[str, str], ...]  # what was checked, the share that was right
    left_out: int = 0
    skills: tuple[Skill, ...] = ()


def read_samples(folder: Path) -> Samples | None:
    """Read ``samples.json`` and its images; None if there are none."""
    found = _json(_text(folder / SAMPLES_JSON))
    found = found if isinstance(found, dict) else {}
    listed = [item for item in found.get("images") or () if isinstance(item, dict) and item.get("file")]
    prompts: dict[str, list[GalleryImage]] = {}
    for item in listed[:SAMPLES]:
        prompt = formatting.plain(str(item.get("prompt") or ""))
        made = _file_image(folder, str(item["file"]), prompt, SAMPLE_LONGEST)
        if made:
            prompts.setdefault(prompt, []).append(made)
    sheet = str(found.get("grid") or GRID)
    grid = None if prompts else _file_image(folder, sheet, "sampled images", 1600)
    skills = _skills(found.get("suite"))
    if not (prompts or grid or skills):
        return None
    names = {"cfg": "guidance", "temperature": "temperature", "top_k": "top-k"}
    settings = ", ".join(f"{name} {found[key]}" for key, name in names.items() if found.get(key) is not None)
    best = _get(found.get("best_of"), "n")
    settings += f", best of {best} by the judge {_get(found['best_of'], 'judge')}" if best else ""
    of_suite = _get(found.get("suite"), "skills")
    checks = {"all right": _get(of_suite, ALL), "rows line up": found.get("rows_line_up")}
    answers = tuple((name, share) for name, value in checks.items() if (share := _share(value)))
    left_out = max(0, len(listed) - SAMPLES)
    of_prompts = tuple((prompt, tuple(images)) for prompt, images in prompts.items())
    return Samples(of_prompts, grid, settings, answers, left_out, skills)


def _skills(suite: Any) -> tuple[Skill, ...]:
    skills = []
    found = _get(suite, "skills")
    found = dict(found) if isinstance(found, Mapping) else {}
    if best := _get(suite, "best"):
        found[f"all, best of {_get(suite, 'seeds')}"] = best
    for name, value in found.items():
        numbers = [_get(value, key) for key in ("right", "asked", "low", "high")]
        if all(map(_finite, numbers)) and numbers[1]:
            skills.append(Skill(formatting.plain(str(name)), *numbers))
    return tuple(skills)


def _share(value: Any) -> str:
    """``{"right": 57, "asked": 60}``, a share or yes/no in words; empty if it is none of them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _finite(value):
        return formatting.percent(value, 1) if 0 <= value <= 1 else ""
    right, asked = _get(value, "right"), _get(value, "asked")
    return f"{right} of {asked}" if _finite(right) and _finite(asked) and asked else ""


def _file_image(folder: Path, name: str, caption: str, longest: int) -> GalleryImage | None:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        return None
    try:
        with Image.open(path) as image:
            return gallery_image(image, caption, (f"{image.width}×{image.height}",), longest, quality=82)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
