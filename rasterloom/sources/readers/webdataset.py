"""Reader of webdataset tars: members that share a stem are a sample."""

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO

from rasterloom.errors import SourceError, one_line
from rasterloom.recipe.sources import Source
from rasterloom.sources import locator
from rasterloom.sources.files import Files
from rasterloom.sources.readers.row import UNUSABLE, Row, is_decoded, is_image
from rasterloom.sources.readers.sidecars import MAX_SIDECAR_BYTES, beside, columns_of, unusable
from rasterloom.sources.readers.tally import FileTally
from rasterloom.sources.readers.tar import Gap, Member, members
from rasterloom.sources.readers.tasks import text_of
from rasterloom.utils.redact import safe

CHECKED_ROWS = 200  # before anything runs
MAX_MEMBERS = 1000  # of a sample; what comes beyond is a sample of its own
NOTHING_BESIDE = (
    "no .txt, .caption or .json stands beside them: the members of a sample stand together, as when packed "
    "sorted by name"
)
EMPTY = Gap("the archive is empty: no bytes at all")
SAMPLE_KEY = "__key__"  # column with a sample's name, as webdataset calls it

Sample = dict[str, Member]  # by the suffix, in lower case, with its dot


def read(files: Files, name: str, source: Source, counts: FileTally | None = None) -> Iterator[Row]:
    """Yield a row for each image of a tar. What cannot be read of it adds a row that says so."""
    counts = FileTally() if counts is None else counts
    with files.open(name) as file:
        size = file.seek(0, os.SEEK_END)
        sample: Sample = {}
        key = ""
        gaps: list[Gap] = []
        for member in _until_error(members(file, size) if size else iter([EMPTY])):
            counts.records += 1
            if isinstance(member, Gap):
                gaps.append(member)
                if len(gaps) >= MAX_MEMBERS:
                    yield from _rows(file, name, key, sample, source, counts)
                    yield from _said(files, name, gaps)
                    sample, gaps = {}, []
                continue
            own, suffix = _key(member.name)
            if _is_passed_over(member):
                counts.left_out["a folder, or a name that begins with a dot"] += 1
                continue
            if not suffix:  # webdataset passes over it, too; the sample around it goes on
                yield unusable("a sample without an image", {SAMPLE_KEY: own[:1000], "tar": name})
                continue
            if own != key or suffix in sample:
                yield from _rows(file, name, key, sample, source, counts)
                sample, key = {}, own
            elif len(sample) >= MAX_MEMBERS:
                goes_on = {s: m for s, m in sample.items() if _stem(s) == _stem(suffix)}
                if len(goes_on) == len(sample):
                    goes_on = {}
                done = {s: m for s, m in sample.items() if s not in goes_on}
                yield from _rows(file, name, key, done, source, counts)
                sample = goes_on
            sample[suffix] = member
        yield from _rows(file, name, key, sample, source, counts)
        yield from _said(files, name, gaps)


def _said(files: Files, name: str, gaps: list[Gap]) -> Iterator[Row]:
    return (unusable(f"{files.shown(name)}: {gap.reason}", {"tar": name}) for gap in gaps)


def check(rows: Iterator[Row], shown: str, source: Source) -> None:
    """Check that one of an archive's first samples can be used.

    Raises:
        SourceError: there are none, or all of them lack an image or a caption.
    """
    found = list(islice(rows, CHECKED_ROWS))
    images = [row for row in found if row.path or row.sample]
    if not found:
        raise SourceError(f"{shown}: it holds no samples")
    if not images:
        reason = safe(found[0].values.get(UNUSABLE, "they have no image"))
        raise SourceError(f"{shown}: none of the first {len(found)} samples can be used: {reason}")
    if source.has_tasks or not source.has_captions:
        return
    if not any(text_of(row.values.get(source.caption)) for row in images):
        columns = dict.fromkeys(name for row in images for name in row.values)
        there = ", ".join(safe(name) for name in columns if name != SAMPLE_KEY)
        way = f"they have {there}: name it by `caption`" if there else NOTHING_BESIDE
        raise SourceError(
            f"{shown}: none of the first {len(images)} images has a caption in {source.caption!r}; {way}, or "
            "write `caption: none`"
        )


def _until_error(found: Iterator[Member | Gap]) -> Iterator[Member | Gap]:
    try:
        yield from found
    except OSError as error:
        yield Gap(one_line(error))


def _is_passed_over(member: Member) -> bool:
    """Tell names that begin with a dot, and folders."""
    last = os.path.basename(member.name.rstrip("/"))
    return last.startswith(".") or (member.name.endswith("/") and not member.length)


def _key(name: str) -> tuple[str, str]:
    """Split a name into sample key and suffix: ``a/b`` and ``.seg.png`` of a/b.seg.png."""
    folder, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()


def _stem(suffix: str) -> str:
    return os.path.splitext(f"x{suffix}")[0]


def _rows(
    file: BinaryIO, name: str, key: str, sample: Sample, source: Source, counts: FileTally
) -> Iterator[Row]:
    """Yield the rows of a sample.

    The caption of ``22.05.jpg`` is ``22.05.txt``, as people name their files, and where there is none
    ``22.txt``, as webdataset reads them.
    """
    if not sample:
        return
    there = {f"x{suffix}": member for suffix, member in sample.items()}
    images, passed_over = _images(there)
    counts.parts += len(sample) - max(1, len(images) + len(passed_over))
    urls: list[Any] = []
    for image in images:
        own = beside(image, there)
        values = {SAMPLE_KEY: key[:1000], **_columns(file, own or beside("x", there), source)}
        if own and "." in os.path.splitext(image)[0]:
            values[SAMPLE_KEY] = f"{key}{os.path.splitext(image)[0][1:]}"[:1000]
        if source.url in values:
            if values[source.url] in urls:  # it is the first's
                del values[source.url]
            else:
                urls.append(values[source.url])
        member = there[image]
        if member.unusable:
            yield unusable(f"{member.name} is not read: {member.unusable}", {**values, "tar": name})
        else:
            yield Row(values, locator.of_range(name, member.offset, member.length))
    for image in passed_over:
        words = "has a caption of its own, but is in the sample of another image: names end at the first dot"
        yield unusable(f"{there[image].name} {words}", {SAMPLE_KEY: key[:1000], "tar": name})
    if not images:
        values = {SAMPLE_KEY: key[:1000], **_columns(file, beside("x", there), source)}
        yield unusable("a sample without an image", {**values, "tar": name})


def _images(there: Mapping[str, Member]) -> tuple[list[str], list[str]]:
    """Return a sample's images, and further ones that have own captions.

    Of a.jpg and a.seg.png, a.jpg is the image; of a.jpg and a.nef, which is not decoded, too.
    """
    decoded = {os.path.splitext(name)[0] for name in there if is_decoded(name)}
    images = [n for n in there if is_decoded(n) or (is_image(n) and os.path.splitext(n)[0] not in decoded)]
    plain = [name for name in images if os.path.splitext(name)[0] == "x"]
    if not plain:
        return images, []
    return plain, [name for name in images if name not in plain and beside(name, there)]


def _columns(file: BinaryIO, sidecars: Mapping[str, Member], source: Source) -> dict[str, Any]:
    return columns_of({suffix: _read(file, member) for suffix, member in sidecars.items()}, source)


def _read(file: BinaryIO, member: Member) -> bytes | None:
    if member.unusable or member.length > MAX_SIDECAR_BYTES:
        return None
    try:
        file.seek(member.offset)
        data = file.read(member.length)
    except OSError:
        return None
    return data if len(data) == member.length else None
