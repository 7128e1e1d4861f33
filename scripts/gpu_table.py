"""Write benchmarks/GPU.md from what benchmarks/gpu.py has measured.

python scripts/gpu_table.py gpu.json [benchmarks/GPU.md]
"""

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "benchmarks/GPU.md"
MARKS = {True: "yes", False: "**no**", None: ""}
INTRODUCTION = (
    "What `benchmarks/gpu.py` measured, each figure beside its goal and what was predicted on paper before. "
    "Weights are random. No other GPU figure is claimed anywhere in the documentation."
)


def main(file: Path, target: Path = TARGET) -> None:
    target.write_text(page(json.loads(file.read_text())))


def page(found: dict[str, Any]) -> str:
    """The page, in Markdown. ValueError of a rehearsal, which says nothing about a GPU."""
    header = found["header"]
    if header.pop("rehearsal"):
        raise ValueError("this is a rehearsal on a CPU: its figures are not those of a GPU")
    about = ", ".join(f"{name} {value}" for name, value in header.items() if value)
    lines = ["# Figures of a GPU", "", INTRODUCTION, "", f"Measured with {about}.", ""]
    for stage, outcome in found["outcomes"].items():
        records = [record for record in found["records"] if record["stage"] == stage]
        lines += [f"## {stage}", "", _ended(outcome), ""]
        if records:
            lines += ["| figure | | measured | goal | met | predicted |", "|---|---|---|---|---|---|"]
            lines += [_row(record) for record in records] + [""]
    return "\n".join(lines).rstrip() + "\n"


def _ended(outcome: dict[str, Any]) -> str:
    if "skipped" in outcome:
        return f"Not run: {outcome['skipped']}."
    if "failed" in outcome:
        said = outcome["said"].strip().splitlines()
        return f"Ended early, after {outcome['seconds']:g} s: {said[-1] if said else outcome['failed']}"
    return f"{outcome['seconds']:g} s."


def _row(record: dict[str, Any]) -> str:
    value = record["value"]
    shown = f"{value:,.4g}" if isinstance(value, int | float) else str(value)
    spread = f" ± {record['spread'] / 2:.1%}" if record["spread"] else ""
    goal = f"{record['op']} {record['goal']:,g}" if record["goal"] is not None else ""
    cells = [
        record["name"],
        ", ".join(f"{name} {given}" for name, given in record["args"].items()),
        f"{shown} {record['unit']}".rstrip() + spread,
        goal,
        MARKS[record["ok"]],
        "" if record["predicted"] is None else str(record["predicted"]),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
