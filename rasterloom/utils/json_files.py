"""Small files of a stage: written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record under another name, then give it its own."""
    draft = path.with_name(f"writing-{path.name}")
    draft.write_text(json.dumps(record, indent=1))
    os.replace(draft, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a record; FileNotFoundError if there is none."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found
