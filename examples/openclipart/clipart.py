"""Image-text pairs from Debian's packages `openclipart-png` and `openclipart-svg` (public domain).

The first has the images, the second the same images as SVG, with title, description and keywords.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq

PACKAGES = ("openclipart-png", "openclipart-svg")
DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
LIST_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
KEYWORDS = 8  # at most, of a caption


def fetch_packages(folder: Path) -> Path:
    """Download and unpack the packages below ``folder``; returns their ``usr/share/openclipart``."""
    clipart = folder / "usr" / "share" / "openclipart"
    if all((clipart / kind).is_dir() for kind in ("png", "svg")):
        return clipart
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            sys.exit(
                f"{program} is missing: unpack {' and '.join(PACKAGES)} of Debian into {folder}, "
                f"so that there are {clipart / 'png'} and {clipart / 'svg'}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not any(folder.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
    return clipart


def write_pairs(clipart: Path, address: str, path: Path) -> int:
    """Write a row for every PNG: its URL below ``address``, and the text of its SVG."""
    rows = []
    for png in sorted((clipart / "png").rglob("*.png")):
        name = png.relative_to(clipart / "png")
        svg = (clipart / "svg" / name).with_suffix(".svg")
        rows.append({"url": f"{address}/{quote(name.as_posix())}", "text": caption(svg), "name": str(name)})
    schema = pa.schema([("url", pa.string()), ("text", pa.string()), ("name", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return len(rows)


def caption(svg: Path) -> str | None:
    """Title, description and keywords of an SVG. Null if there is no SVG or no text in it."""
    try:
        root = ElementTree.parse(svg).getroot()
    except (OSError, ElementTree.ParseError):
        return None
    work = next((node for node in root.iter() if node.tag.endswith("}Work")), None)
    if work is None:
        return None
    words = [
        " ".join((node.text or "").split())
        for name in ("title", "description")
        if (node := work.find(DUBLIN_CORE + name)) is not None
    ]
    subject = work.find(DUBLIN_CORE + "subject")
    items = subject.iter(LIST_ITEM) if subject is not None else ()
    keywords = [word for item in items if (word := " ".join((item.text or "").split()))]
    parts = dict.fromkeys(part.rstrip(". ") for part in [*words, ", ".join(keywords[:KEYWORDS])])
    return ". ".join(part for part in parts if part) or None
