"""Import of samples that Lumina-mGPT's pre_tokenize.py wrote.

A pickle holds {"token": ids, "label": ids with -100 where nothing is learnt, "id": number}. Pickles can run
any code when they are loaded; these are read by a loader that knows numbers, strings, lists and dicts, and
nothing that has a name.
"""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rasterloom.errors import one_line
from rasterloom.schema import TEXT_BUCKET, TOKENS, Profile, bucket_name, pair_key
from rasterloom.tokenize.sequence_parser import Piece, pieces
from rasterloom.tokenize.tokenize_shard import FAILURES, Tokenized
from rasterloom.utils.json_files import lines_of

IGNORED = -100  # in labels
MOST_BYTES = 64 * 2**20  # of a pickle; the longest sample of the reference has about 100 kB

TWICE = "twice"  # stands in an entry for one that names a file again, with the name


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds {module}.{name}, where numbers, lists and dicts are expected")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of it")


def load_pickle(data: bytes) -> Any:
    """Load a pickle of plain values. Raises ValueError for anything else: no code of it is run."""
    try:
        return _Plain(io.BytesIO(data)).load()
    except Exception as error:  # broken pickles raise many kinds
        message = one_line(error)
        raise ValueError(f"not a pickle of plain values: {message}") from None


def read_record(path: Path) -> list[tuple[str, Any]]:
    """Return what a record lists: (where it stands, the entry), a string for a line that is not JSON.

    ``record.json`` is one list; ``record.jsonl`` has an entry a line, the last of which may be cut off.

    Raises:
        ValueError: the file cannot be read, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the record {path}: {one_line(error)}") from None
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, list):
        return [(f"entry {number}", entry) for number, entry in enumerate(whole)]
    found: list[tuple[str, Any]] = []
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            try:
                found.append((f"line {number}", json.loads(line)))
            except ValueError:
                found.append((f"line {number}", line))
    if not any(isinstance(entry, dict) for _, entry in found):
        raise ValueError(f"{path} is no record: neither a JSON list nor a JSON object a line")
    return found


def import_samples(entries: list[tuple[str, Any]], folder: Path, target: int, profile: Profile) -> Tokenized:
    """Read samples into token rows.

    Every entry comes back once: in ``tokens``, or in ``failures`` with the reason. Frames are checked
    token by token; a bucket is the size of the sample's last learnt image, else of its last.

    Args:
        entries: of ``read_record``.
        folder: of the record, where files are looked for that are not where the record says.
    """
    rows, failures = [], []
    for where, entry in entries:
        key = pair_key(None, None, ("reference", name_of(entry) or where))
        try:
            rows.append({**_row(entry, folder, profile), "key": key, "target": target})
        except (ValueError, OSError) as error:
            message = error.strerror if isinstance(error, OSError) else str(error)
            failures.append({"key": key, "reason": f"{name_of(entry) or where}: {message}"})
    rows.sort(key=lambda row: row["key"])
    return Tokenized(pa.Table.from_pylist(rows, TOKENS), pa.Table.from_pylist(failures, FAILURES))


def name_of(entry: Any) -> str | None:
    """Return the file that a record's entry names. Folders above its own are left out."""
    file = entry.get("file") if isinstance(entry, dict) else None
    return "/".join(Path(file).parts[-2:]) if isinstance(file, str) and file else None


def _row(entry: Any, folder: Path, profile: Profile) -> dict[str, Any]:
    if isinstance(entry, dict) and TWICE in entry:
        raise ValueError(f"{entry[TWICE]} comes a second time")
    if (name := name_of(entry)) is None:
        raise ValueError("not an object that names a file")
    ids, spans = sample_of(load_pickle(_read(Path(entry["file"]), folder, name)))
    if isinstance(entry.get("len"), int) and entry["len"] != len(ids):
        raise ValueError(f"the record says {entry['len']} tokens, the file has {len(ids)}")
    found = pieces(ids, profile)
    images = [piece for piece in found if piece.kind == "image"]
    learnt = [piece for piece in images if _within(piece, spans)]
    width, height = (learnt or images)[-1].size(profile) if images else (0, 0)
    return {
        "bucket": bucket_name(width, height) if images else TEXT_BUCKET,
        "width": width,
        "height": height,
        "task": "t2i" if len(images) == len(learnt) == 1 else "imported",
        "input_ids": ids,
        "loss_spans": spans.ravel(),
        "n_tokens": len(ids),
    }


def _read(path: Path, folder: Path, name: str) -> bytes:
    """The bytes of a sample's file: where the record says, or beside the record if that was moved."""
    for place in (path if path.is_absolute() else folder / path, folder / name, folder / path.name):
        if place.is_file():
            if place.stat().st_size > MOST_BYTES:
                raise ValueError(f"{place.stat().st_size:,} bytes are no sample")
            return place.read_bytes()
    raise ValueError(f"no such file, nor {name} beside the record")


def sample_of(value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a loaded pickle's ids, int32 [n], and loss spans, int32 [k, 2].

    Raises:
        ValueError: it is none, or its labels are not its tokens.
    """
    if not isinstance(value, dict) or not {"token", "label"} <= value.keys():
        raise ValueError("not a dict with token and label")
    arrays = []
    for name in ("token", "label"):
        numbers = value[name]
        if not isinstance(numbers, list) or not all(type(n) is int and abs(n) < 2**31 for n in numbers):
            raise ValueError(f"its {name} is no list of ids")
        arrays.append(np.array(numbers, np.int32))
    ids, labels = arrays
    if len(ids) != len(labels):
        raise ValueError(f"{len(ids)} tokens have {len(labels)} labels")
    learnt = labels != IGNORED
    wrong = np.flatnonzero(learnt & (labels != ids))
    if wrong.size:
        at = int(wrong[0])
        raise ValueError(f"position {at} has the label {labels[at]} for the token {ids[at]}")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], learnt, [False]])))
    if not edges.size:
        raise ValueError("nothing in it is learnt")
    return ids, edges.astype(np.int32).reshape(-1, 2)


def _within(piece: Piece, spans: np.ndarray) -> bool:
    return bool(((spans[:, 0] <= piece.start) & (spans[:, 1] >= piece.end)).any())
