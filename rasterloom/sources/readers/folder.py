"""Reader of a folder of images with .txt, .caption or .json sidecars."""

import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources import locator
from rasterloom.sources.files import Files
from rasterloom.sources.local_paths import BlockedPath
from rasterloom.sources.readers.row import BLOCKED, NO_PAIR, Row, is_decoded, is_image, picked
from rasterloom.sources.readers.sidecars import MAX_SIDECAR_BYTES, beside, columns_of, folded, is_sidecar
from rasterloom.sources.readers.tally import FileTally, Survey, Tally
from rasterloom.sources.readers.tasks import text_of
from rasterloom.storage.store import Entry
from rasterloom.utils.redact import safe

# Files of other kinds, which are no image even if a .txt lies beside them.
NO_IMAGES = frozenset(
    (
        *(
            ".csv",
            ".tsv",
            ".jsonl",
            ".ndjson",
            ".parquet",
            ".arrow",
            ".feather",
            ".tar",
            ".zip",
            ".gz",
            ".zst",
        ),
        *(".md", ".html", ".htm", ".xml", ".yaml", ".yml", ".toml", ".pdf", ".npy", ".npz", ".pt"),
        *(".safetensors", ".log", ".ini", ".py", ".sh"),
    )
)


METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as `datasets` names it
TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")
CHECKED_IMAGES = 200  # with files beside them
NO_IMAGE_BESIDE = "no image of the same name beside it"
NO_IMAGE = "no image"


def read(files: Files, source: Source, tally: Tally | None = None) -> Iterator[Row]:
    """Yield a row an image, folder by folder. An image without a caption is a row without one.

    A file of an unknown kind counts as an image if it has a caption that is not that of another one. Other
    files, and sidecars of no image, are left out.
    """
    tally = Tally() if tally is None else tally
    for entries in by_folder(files.entries()):
        counts = tally.file(os.path.dirname(entries[0].name))
        for row in picked(_folder(files, source, entries, counts), source, counts):
            counts.rows += 1
            yield row


def check(files: Files, source: Source) -> None:
    """Check that a folder has images, and captions beside the first.

    Raises:
        SourceError: it has none.
    """
    shown, number, found = files.shown(files.targets[0].path), 0, []
    for row in read(files, source):
        number += 1
        if row.values:
            found.append(row.values)
        if len(found) == CHECKED_IMAGES or has_caption(row.values, source):
            break
    if not number:
        raise SourceError(f"{shown}: no images there{_table_there(files)}")
    if source.has_tasks or not source.has_captions or any(has_caption(values, source) for values in found):
        return
    columns = dict.fromkeys(name for values in found for name in values if name not in NO_PAIR)
    if columns:
        there = ", ".join(map(safe, columns))
        raise SourceError(
            f"{shown}: none of the first {len(found)} sidecars has a caption in {source.caption!r}; they "
            f"have {there}: name it by `caption`"
        )
    if not found:
        way = _table_there(files) or "; write `caption: none` for images without captions"
        raise SourceError(f"{shown}: no captions found beside its {number:,} images{way}")


def has_caption(values: dict[str, Any], source: Source) -> bool:
    """Tell whether columns hold a caption. One that cannot be used is a matter of its row alone."""
    return bool(values.keys() & NO_PAIR or text_of(values.get(source.caption)))


def _table_there(files: Files) -> str:
    """Return the way out if a table lies beside the images."""
    for entry in files.entries():
        last = os.path.basename(entry.name)
        if last in METADATA:
            return f"; {entry.name} is there: kind: hf?"
        if os.path.splitext(last)[1].lower() in TABLES:
            return (
                f"; {entry.name} is there: name it as the source's path, and its column of images by `image`?"
            )
    return ""


def _folder(files: Files, source: Source, entries: list[Entry], counts: FileTally) -> Iterator[Row]:
    images = images_of(entry.name for entry in entries)
    sizes = {entry.name: entry.size for entry in entries}
    names = _sidecars(sizes)
    read = set()
    for image in images:
        found = beside(image, names)
        read |= set(found.values())
        try:
            sidecars = {suffix: _read(files, name, sizes[name]) for suffix, name in found.items()}
            values = columns_of(sidecars, source)
        except BlockedPath as error:
            values = {BLOCKED: str(error)}
        yield Row(values, locator.of_file(image))
    counts.records += len(entries)
    counts.parts += len(read)
    if others := len(entries) - len(images) - len(read):
        counts.left_out["no image, nor beside one"] += others


def images_of(names: Iterable[str]) -> list[str]:
    """Return the names of one folder that are images, in their order."""
    names = list(names)
    sidecars = _sidecars(names)
    known = [name for name in names if is_image(name)]
    taken = {sidecar for name in known for sidecar in beside(name, sidecars).values()}
    if len(taken) == len(sidecars):
        return known
    images = set(known)
    for name in names:
        if is_image(name) or is_sidecar(name) or os.path.splitext(name)[1].lower() in NO_IMAGES:
            continue
        if any(sidecar not in taken for sidecar in beside(name, sidecars).values()):
            images.add(name)
    return [name for name in names if name in images]


def _sidecars(names: Iterable[str]) -> dict[str, str]:
    """Return the sidecars of a folder by their folded names.

    Of a.TXT and a.txt, a.txt.
    """
    return {folded(name): name for name in sorted(names) if is_sidecar(name)}


def survey(files: Files) -> Survey:
    """Return the files that are read, by name alone."""
    found = Survey("folder")
    survey_into(found, files.entries())
    return found


def survey_into(found: Survey, files: Iterable[Entry]) -> None:
    """Note which of some files are images or lie beside one."""
    for entries in by_folder(files):
        names = [entry.name for entry in entries]
        images, sidecars = set(images_of(names)), _sidecars(names)
        read = {name for image in images for name in beside(image, sidecars).values()}
        for name in names:
            suffix = os.path.splitext(name)[1].lower() or "without a suffix"
            if name in images or name in read:
                found.read[suffix] += 1
            else:
                found.skip(NO_IMAGE_BESIDE if is_sidecar(name) else NO_IMAGE, suffix, name)


def note_read_anew(name: str, found: list[str]) -> None:
    """Add to a list one name that earlier versions passed over.

    Their digest of such a folder is not to be taken for ours.
    """
    stem, suffix = os.path.splitext(name)
    old = suffix in (".txt", ".json") and not is_image(stem) if is_sidecar(name) else is_decoded(name)
    if not found and not old and suffix.lower() not in NO_IMAGES:
        found.append(name)


def by_folder(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield the files of each folder.

    A folder ``1.raw`` comes between ``1.jpg`` and ``1.txt`` in a listing. Such files are held back until the
    listing has left that folder, so that an image keeps its sidecars.
    """
    held: dict[str, list[Entry]] = {}
    here: list[Entry] = []
    at = ""
    for folder, group in groupby(entries, key=lambda entry: os.path.dirname(entry.name)):
        inner = folder[len(at) :].lstrip("/").partition("/")[0] if _is_in(folder, at) else ""
        waiting = [entry for entry in here if inner and _has_stem(inner, os.path.basename(entry.name))]
        if waiting:
            held[at] = waiting
            names = {entry.name for entry in waiting}
            here = [entry for entry in here if entry.name not in names]
        if here:
            yield here
        for outer in [outer for outer in held if not _is_in(folder, outer)]:
            yield held.pop(outer)
        at, here = folder, [*held.pop(folder, ()), *group]
    yield from filter(None, (here, *held.values()))


def _is_in(folder: str, outer: str) -> bool:
    return not outer or folder == outer or folder.startswith(f"{outer}/")


def _has_stem(folder: str, file: str) -> bool:
    """Tell whether a folder may come between a file and its sidecar."""
    stem, dot, _ = file.partition(".")
    return folder.startswith(f"{stem}{dot}")


def _read(files: Files, name: str, size: int) -> bytes | None:
    """Read a sidecar; None if it cannot be read. BlockedPath if it lies elsewhere."""
    if size > MAX_SIDECAR_BYTES:
        return None
    try:
        with files.open(name) as file:
            data = file.read(MAX_SIDECAR_BYTES + 1)
    except OSError:
        return None
    return data if len(data) <= MAX_SIDECAR_BYTES else None
