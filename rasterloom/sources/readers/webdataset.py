"""Reader of webdataset tars: members that share a stem are a sample."""

import os
from collections.abc import Iterator
from itertools import count
from typing import Any, BinaryIO

from rasterloom.errors import one_line
from rasterloom.recipe.sources import Source
from rasterloom.sources import locator
from rasterloom.sources.files import SIDECARS, Files
from rasterloom.sources.readers.row import Row, is_image
from rasterloom.sources.readers.sidecars import MAX_SIDECAR_BYTES, columns_of, unusable
from rasterloom.sources.readers.tar import BrokenTar, Member, members

MAX_MEMBERS = 1000  # of a sample; what comes beyond is a sample of its own
SAMPLE_KEY = "__key__"  # column with a sample's name, as webdataset calls it


def read(files: Files, name: str, source: Source) -> Iterator[Row]:
    """Yield a row for each image of a tar. A broken or truncated tar adds a row that says so."""
    with files.open(name) as file:
        size = file.seek(0, os.SEEK_END)
        sample: dict[str, Member] = {}
        key = ""
        found = members(file, size)
        for number in count():
            try:
                member = next(found)
            except StopIteration:
                broken = "" if number or size else "the archive is empty: no bytes at all"
                break
            except (BrokenTar, OSError) as error:
                broken = one_line(error)
                break
            own, suffix = _key(member.name)
            if not os.path.basename(member.name.rstrip("/")).startswith("."):
                if own != key or suffix in sample or len(sample) >= MAX_MEMBERS:
                    yield from _rows(file, name, key, sample, source)
                    sample, key = {}, own
                sample[suffix] = member
        yield from _rows(file, name, key, sample, source)
        if broken:
            yield unusable(f"{files.shown(name)}: {broken}", {"tar": name})


def _key(name: str) -> tuple[str, str]:
    """Split a name into sample key and suffix: ``a/b`` and ``seg.png`` of a/b.seg.png."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _rows(file: BinaryIO, name: str, key: str, sample: dict[str, Member], source: Source) -> Iterator[Row]:
    if not sample:
        return
    sidecars = {suffix: _read(file, sample[suffix]) for suffix in SIDECARS if suffix in sample}
    values: dict[str, Any] = {SAMPLE_KEY: key[:1000], **columns_of(sidecars, source)}
    images = {suffix: member for suffix, member in sample.items() if is_image(f"image.{suffix}")}
    # Of a.jpg and a.seg.png, a.jpg is the image.
    plain = [member for suffix, member in images.items() if "." not in suffix]
    for image in plain or images.values():
        yield Row(values, locator.of_range(name, image.offset, image.length))
        values = {
            column: value for column, value in values.items() if column != source.url
        }  # it is the first's
    if not images:
        yield unusable("a sample without an image", {**values, "tar": name})


def _read(file: BinaryIO, member: Member) -> bytes | None:
    if member.length > MAX_SIDECAR_BYTES:
        return None
    try:
        file.seek(member.offset)
        data = file.read(member.length)
    except OSError:
        return None
    return data if len(data) == member.length else None
