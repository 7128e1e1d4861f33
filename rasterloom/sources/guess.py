"""Guess of a source's columns, by names and first records."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import AUTO_QUOTE, NO_CAPTION, NO_QUOTE, Source
from rasterloom.sources.files import find_files
from rasterloom.sources.first_records import Records, first_records
from rasterloom.sources.lists import field_path
from rasterloom.sources.lists.opened import plain_name
from rasterloom.sources.readers import hub
from rasterloom.sources.readers.built_in import BUILT_IN, FileReader
from rasterloom.sources.readers.folder import METADATA, TABLES
from rasterloom.sources.readers.row import DELIMITERS, is_image
from rasterloom.sources.readers.tasks import URL, text_of
from rasterloom.sources.readers.text import QUOTE, Quotes
from rasterloom.utils.redact import cut

# Names of columns without case and signs, the likeliest first.
URLS = (
    *("imageurl", "imgurl", "photourl", "photoimageurl", "pictureurl", "imagelink", "cocourl", "url"),
    *("image", "img", "photo", "picture", "src", "link", "href", "uri", "contenturl"),
)
CAPTIONS = (
    *("caption", "captions", "text", "alttext", "alt", "prompt", "description", "title", "sentence"),
    *("sentences", "label"),
)
IMAGES = (
    *("image", "jpg", "img", "png", "webp", "photo", "picture", "imagepath", "filename", "filepath"),
    *("imagefile", "path", "file"),
)
LICENCES = ("licence", "license", "rights", "licenceurl", "licenseurl")
OTHER_URLS = re.compile(r"thumb|page|licen[cs]e|author|creator|profile|owner|landing|source")
NO_CAPTIONS = re.compile(r"error|exif|message|agent|path|licen[cs]e|rights|author")
WORDS = 2.0  # on average, of a column that is taken for captions though its name does not say so
LOOKED_AT = 20  # images that a table names
ENCODING = "latin-1"  # of text that is not UTF-8: it reads any bytes


@dataclass(frozen=True)
class Guess:
    """Fields of a source as its first records suggest them."""

    source: Source
    kind: str
    columns: list[str]
    others: dict[str, list[str]] = field(default_factory=dict)  # further columns that would do, by field

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that a recipe has to name."""
        named = {name: getattr(self.source, name) for name in _ORDER if name in self.source.model_fields_set}
        return {name: value for name, value in named.items() if (name, value) != ("quote", AUTO_QUOTE)}


_ORDER = tuple(Source.model_fields)


def guess_source(path: str, url: str = "", caption: str = "", kind: str = "auto") -> Guess:
    """Guess what a recipe has to say of a source.

    Args:
        url, caption: columns that are known; "none" for images without captions.

    Raises:
        SourceError: nothing is there, it cannot be read, or no column holds URLs or images.
    """
    given = {name: value for name, value in (("url", url), ("caption", caption)) if value}
    source = Source(path=path) if kind == "auto" else Source(path=path, kind=kind)
    if hub.is_streamed(source):
        source = _with_split(source)
    found = first_records(_with(source, {"quote": NO_QUOTE} if _is_tsv(source) else {}))
    if found.kind in ("csv", "json", "jsonl"):
        source, found = _in_its_dialect(source, found)
    if found.kind == "conversations":
        return Guess(source, found.kind, [])
    if found.kind == "jsonl" and "conversations" in found.columns:
        return Guess(_with(source, {"kind": "conversations"}), "conversations", found.columns)
    if found.kind == "txt":
        return Guess(_with(source, {"caption": NO_CAPTION}), found.kind, [])
    if not found.rows:
        raise SourceError(f"{path}: it holds no rows that can be read")
    if found.kind in ("folder", "webdataset", "img2dataset"):
        return _of_images(source, found, given)
    if found.kind in BUILT_IN:
        return _of_table(source, found, given)
    return Guess(_with(source, given), found.kind, found.columns)  # of a plug-in


def _with(source: Source, fields: Mapping[str, Any]) -> Source:
    """Return a source with further fields, checked."""
    known = {name: getattr(source, name) for name in source.model_fields_set}
    try:
        return Source.model_validate({**known, **fields})
    except ValidationError as error:
        words = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise SourceError(f"{source.paths[0]}: {words}") from None


def _with_split(source: Source) -> Source:
    splits = hub.splits(source)
    return _with(source, {"split": splits[0]}) if splits and source.split not in splits else source


def _in_its_dialect(source: Source, found: Records) -> tuple[Source, Records]:
    """Find quotes, encoding, delimiter and header of a list of text."""
    is_csv = found.kind == "csv"
    for change in (_quote, _encoding, _delimiter, _names) if is_csv else (_encoding,):
        if fields := change(source, found):
            source = _with(source, fields)
            found = first_records(source)
    return source, found


def _encoding(source: Source, found: Records) -> dict[str, Any]:
    texts = (text for row in found.rows for item in row.items() for text in item if isinstance(text, str))
    return {"encoding": ENCODING} if any(text_of(text) is None for text in texts) else {}


def _quote(source: Source, found: Records) -> dict[str, Any]:
    """Find quotes in a TSV, which has none by its format."""
    if not _is_tsv(source):
        return {}
    quotes = Quotes()
    for row in found.rows:
        quotes.look([str(value) for value in row.values()])
    is_quoted = all(len(name) > 2 and name[0] == name[-1] == QUOTE for name in found.columns)
    return {"quote": QUOTE if is_quoted or quotes.fault() else AUTO_QUOTE}


def _is_tsv(source: Source) -> bool:
    return plain_name(source.paths[0]).lower().endswith(".tsv")


def _delimiter(source: Source, found: Records) -> dict[str, Any]:
    if len(found.columns) != 1 or _is_tsv(source):
        return {}
    mark = next((mark for mark in DELIMITERS if mark in found.columns[0]), None)
    return {"delimiter": mark} if mark else {}


def _names(source: Source, found: Records) -> dict[str, Any]:
    """Name the columns of a file without a header: its first row holds a URL."""
    if not any(name.lower().startswith(URL) for name in found.columns):
        return {}
    plain = [f"column{number}" for number in range(1, len(found.columns) + 1)]
    rows = first_records(_with(source, {"columns": plain})).rows
    for name, best in (("url", _urls(rows, plain)), ("caption", _captions(rows, plain))):
        if best:
            plain[plain.index(best[0])] = name
    return {"columns": plain}


def _of_images(source: Source, found: Records, given: Mapping[str, str]) -> Guess:
    """Guess the captions of images that lie in files."""
    captions = _captions(found.rows, found.columns)
    if "caption" in given:
        return Guess(_with(source, given), found.kind, found.columns)
    if not captions and found.kind == "folder" and (table := _table_beside(source)):
        try:
            return guess_source(table, **given)
        except SourceError:
            pass  # a table of something else
    fields = {**given, "caption": (captions or [NO_CAPTION])[0]}
    return Guess(_with(source, fields), found.kind, found.columns, {"caption": captions[1:]})


def _table_beside(source: Source) -> str:
    """Return the path of a table among images, or an empty text."""
    files = find_files(source)
    names = [e.name for e in files.entries() if os.path.splitext(e.name)[1].lower() in (*TABLES, ".parquet")]
    names.sort(key=lambda name: (os.path.basename(name) not in METADATA, name.count("/"), name))
    return files.store.path(names[0]) if names and files.is_local else ""


def _of_table(source: Source, found: Records, given: Mapping[str, str]) -> Guess:
    """Guess the columns of a table."""
    known = dict(_values(found.rows, found.columns))
    urls = _urls(found.rows, found.columns)
    images = sorted(found.images, key=lambda name: _rank(name, IMAGES))
    fields: dict[str, Any] = dict(given)
    others: dict[str, list[str]] = {}
    missing = ""
    if not images and "url" not in given and found.kind != "hf":
        images, root, missing = _paths(source, found)
        fields |= {"root": root} if root else {}
    if images:
        fields["image"], others["image"] = images[0], images[1:]
        urls = [name for name in urls if name not in images]
    if "url" not in given and urls:
        fields["url"], others["url"] = urls[0], urls[1:]
    if not (images or urls or given.get("url")):
        there = ", ".join(cut(name, 50) for name in found.columns[:50]) or "none"
        raise SourceError(f"{source.paths[0]}: no column holds URLs or images; its columns: {there}{missing}")
    if "caption" not in given:
        captions = [name for name in _captions(found.rows, found.columns) if name not in fields.values()]
        fields["caption"], others["caption"] = (captions or [NO_CAPTION])[0], captions[1:]
    licences = [name for name in known if _plain(name) in LICENCES]
    if licences:
        fields["licence"] = {"column": licences[0]}
    return Guess(_with(source, fields), found.kind, found.columns, others)


def _values(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    """Yield columns, and fields in them, with values that are not empty."""
    for column in columns:
        yield from _inside(column, [value for row in rows if (value := row.get(column)) is not None], 2)


def _inside(path: str, values: list[Any], depth: int) -> Iterator[tuple[str, list[Any]]]:
    values = [value for value in values if value not in ("", b"")]
    first = values[0] if values else None
    if isinstance(first, Mapping) and depth:
        for name in map(str, first):
            inner = f"{path}.{name}"
            if field_path.steps_of(inner)[-1] == name:
                found = [value.get(name) for value in values if isinstance(value, Mapping)]
                yield from _inside(inner, [value for value in found if value is not None], depth - 1)
    elif isinstance(first, list | tuple) and depth:
        firsts = [value[0] for value in values if isinstance(value, list | tuple) and len(value)]
        yield from _inside(f"{path}[0]", [value for value in firsts if value is not None], depth - 1)
    else:
        yield path, values


def _plain(path: str) -> str:
    """Return the innermost name of a path, without case and signs."""
    names = [step for step in field_path.steps_of(path) if isinstance(step, str)]
    return re.sub(r"[\W_]", "", names[-1].casefold()) if names else ""


def _rank(path: str, known: Sequence[str]) -> int:
    name = _plain(path)
    return known.index(name) if name in known else len(known)


def _texts(values: list[Any]) -> list[str]:
    return [text.strip() for value in values if (text := text_of(value)) is not None and text.strip()]


def _urls(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Return the columns that hold URLs, the likeliest first."""
    found: list[tuple[tuple[int, bool, float], str]] = []
    for name, values in _values(rows, columns):
        texts = _texts(values)
        urls = [text for text in texts if text.lower().startswith(URL)]
        if urls and len(urls) * 2 >= len(texts):
            images = sum(map(_names_an_image, urls)) / len(urls)
            of_other = bool(OTHER_URLS.search(_plain(name)))
            found.append(((_rank(name, URLS), of_other, -images), name))
    return [name for _, name in sorted(found, key=lambda item: item[0])]


def _names_an_image(text: str) -> bool:
    return is_image(re.split(r"[?#]", text)[0])


def _captions(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Return the columns that may hold captions, the likeliest first."""
    found: list[tuple[tuple[int, float], str]] = []
    for name, values in _values(rows, columns):
        texts = _texts(values)
        if len(texts) * 2 < len(values) or not texts or NO_CAPTIONS.search(_plain(name)):
            continue
        if any(text.lower().startswith(URL) or _names_an_image(text) for text in texts[:10]):
            continue
        words = sum(len(text.split()) for text in texts) / len(texts)
        rank = _rank(name, CAPTIONS)
        if rank < len(CAPTIONS) or words > WORDS:
            found.append(((rank, -words), name))
    return [name for _, name in sorted(found)]


def _paths(source: Source, found: Records) -> tuple[list[str], str, str]:
    """Find columns that name images on this disk.

    Returns:
        the columns, the folder that the paths of the first begin in, where that is not the table's own, and
        words on a column whose images are not there
    """
    files = find_files(source)
    named: list[tuple[int, str, list[str]]] = []
    for name, values in _values(found.rows, found.columns):
        texts = [text for text in _texts(values) if not text.lower().startswith(URL)]
        if name in found.columns and texts and sum(map(_names_an_image, texts)) * 2 >= len(texts):
            named.append((_rank(name, IMAGES), name, texts))
    named.sort()
    reader = BUILT_IN[found.kind]
    if not named or not files.is_local or not isinstance(reader, FileReader):
        return [name for _, name, _ in named], "", ""
    own = os.path.dirname(files.store.path(reader.first_file(source)))
    for _, name, texts in named:
        folder = next((one for one in _folders(own, texts) if _is_there(one, texts)), None)
        if folder is not None:
            rest = [other for _, other, _ in named if other != name]
            return [name, *rest], "" if folder == own else folder, ""
    _, name, texts = named[0]
    return [], "", f"; the images of {cut(name, 50)}, such as {cut(texts[0], 80)}, are not beside it"


def _is_there(folder: str, texts: list[str]) -> bool:
    """Tell whether one of the first paths leads into a folder."""
    found = (os.path.normpath(os.path.join(folder, text)) for text in texts[:LOOKED_AT])
    return any(path.startswith(f"{folder.rstrip('/')}/") and os.path.isfile(path) for path in found)


def _folders(own: str, texts: list[str]) -> Iterator[str]:
    """Yield folders that a table's paths may begin in: its own, those in it, the one above."""
    yield own
    if absolute := [os.path.dirname(text) for text in texts if os.path.isabs(text)]:
        yield os.path.commonpath(absolute)
        return
    with os.scandir(own) as entries:
        folders = [entry.path for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    yield from sorted(folders)
    yield os.path.dirname(own)
