"""Reader of Hugging Face data sets, streamed by the ``datasets`` library.

``hf://owner/name`` is one on the hub, a path is a folder that ``datasets.load_dataset`` understands.
Images are located by shard and row, and read by streaming that shard again.
"""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import pyarrow.parquet as pq

from rasterloom.errors import SourceError, one_line
from rasterloom.recipe.sources import Source
from rasterloom.sources import locator
from rasterloom.sources.local_paths import BlockedPath, real_folders, real_path
from rasterloom.sources.readers.datasets_compat import with_features
from rasterloom.sources.readers.parquet import check_types
from rasterloom.sources.readers.row import Row, check_columns, is_image, picked
from rasterloom.sources.readers.tally import Survey, Tally

HUB = "hf://"
OTHER_SPLIT = "of another split than {}: name it as split"
NOT_OF_SET = "datasets does not take it for data of the set"


def is_streamed(source: Source) -> bool:
    """Tell whether a source is of this kind."""
    return source.kind == "hf" or source.paths[0].startswith(HUB)


def load(source: Source) -> Any:
    """Open a source's ``datasets.IterableDataset`` with features, images left encoded.

    Raises:
        SourceError: `datasets` is not installed, or the data set cannot be opened.
    """
    return _load(source)


@lru_cache(maxsize=8)
def _load(source: Source) -> Any:
    if len(source.paths) != 1:
        raise SourceError(f"{source.paths[0]}: a source of kind hf has one path")
    path = source.paths[0]
    try:
        builder = _builder(source)
        for files in (builder.config.data_files or {}).values():
            # Images of a folder of images are checked one by one, when they are read.
            by_row = builder.name == "imagefolder"
            _check_files(path, [file for file in files if not (by_row and is_image(file))])
        return with_features(builder.as_streaming_dataset(split=source.split)).decode(False)
    except (BlockedPath, SourceError):
        raise
    except Exception as error:  # it raises whatever its many parts raise
        if "[" in path:  # its own patterns begin with the folder's path, which it does not escape
            raise SourceError(
                f"{path}: datasets takes the brackets for a pattern: rename the folder"
            ) from None
        raise SourceError(f"{path}: cannot be read by datasets: {one_line(error)}") from None


@lru_cache(maxsize=8)
def _builder(source: Source) -> Any:
    try:
        import datasets  # heavy
    except ImportError:
        path = source.paths[0]
        raise SourceError(f"{path}: needs the library datasets: pip install 'rasterloom[hf]'") from None
    datasets.disable_progress_bars()
    name = source.paths[0].removeprefix(HUB).removeprefix("datasets/")
    return datasets.load_dataset_builder(name, source.config, revision=source.revision)


def files_of(source: Source) -> dict[str, list[str]]:
    """Return the files of each split: local paths, or addresses. Empty where the set's builder names none.

    Raises:
        SourceError: `datasets` is not installed, or the data set cannot be opened.
    """
    load(source)
    found = _builder(source).config.data_files or {}
    return {str(split): [file.rpartition("::")[2] for file in files] for split, files in found.items()}


def survey(source: Source, others: Iterator[str]) -> Survey:
    """Return which files of a data set are read.

    Args:
        others: paths of what else lies in its folder.
    """
    found = Survey("hf")
    by_split = files_of(source)
    known = {os.path.realpath(file) for files in by_split.values() for file in files}
    for split, files in by_split.items():
        for file in dict.fromkeys(files):
            if split == source.split:
                found.read[_suffix(file)] += 1
            else:
                found.skip(OTHER_SPLIT.format(source.split), _suffix(file), file)
    for path in others:
        if os.path.realpath(path) not in known:
            found.skip(NOT_OF_SET, _suffix(path), path)
    return found


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower() or "without a suffix"


def _records(source: Source, shards: int) -> list[int | None]:
    """Rows of each shard, by the footers of its Parquet files. None where it has none, or lies elsewhere."""
    files = files_of(source).get(source.split, [])
    if len(files) != shards or source.paths[0].startswith(HUB):
        return [None] * shards
    return [pq.read_metadata(file).num_rows if file.endswith(".parquet") else None for file in files]


def _check_files(path: str, files: Sequence[str]) -> None:
    """Check where a data set's files lie: its own card or a link may name any file, here or elsewhere."""
    for file in files:
        if path.startswith(HUB):
            inside = file.startswith(HUB) and "::" not in file
        else:
            inside = "://" not in file
            if inside:
                real_path(file, real_folders(path))
        if not inside:
            raise BlockedPath(f"{path}: its file {file!r} does not lie in the data set, and is not read")


def splits(source: Source) -> list[str]:
    """Return the splits that a data set's files name. SourceError as for `load`."""
    try:
        return [str(split) for split in _builder(source).config.data_files or {}]
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"{source.paths[0]}: cannot be read by datasets: {one_line(error)}") from None


def image_columns(source: Source) -> list[str]:
    """Return the columns whose type is that of images."""
    import datasets  # heavy

    features = load(source).features or {}
    return [name for name, feature in features.items() if isinstance(feature, datasets.Image)]


def image_column(source: Source) -> str:
    """Return the column of images: what the source names, or the only one of that type, else empty."""
    if source.image:
        return source.image
    names = image_columns(source)
    return names[0] if len(names) == 1 and source.url not in (load(source).features or {}) else ""


def check(source: Source) -> None:
    """Check the columns of a data set."""
    features = load(source).features
    named = source.model_copy(update={"image": image_column(source)})
    check_columns(source.paths[0], named, list(features or {}))
    if features is not None:
        check_types(source.paths[0], named, features.arrow_schema)


def read(source: Source, tally: Tally) -> Iterator[Row]:
    """Yield the rows of all shards, without their images, as `picked`."""
    data, image = load(source), image_column(source)
    rest = data.remove_columns(image) if image else data
    records = _records(source, data.num_shards)
    for shard in range(data.num_shards):
        counts = tally.file(f"shard {shard}")
        try:
            part = rest.shard(data.num_shards, shard) if data.num_shards > 1 else rest
            for row in picked(_rows(part, shard, image), source, counts):
                counts.rows += 1
                yield row
            known = records[shard]
            counts.records = counts.rows - counts.extra if known is None else known
        except Exception as error:
            shown = f"{source.paths[0]}, shard {shard}"
            raise SourceError(f"{shown}: cannot be read by datasets: {one_line(error)}") from None


def _rows(part: Any, shard: int, image: str) -> Iterator[Row]:
    for number, values in enumerate(part):
        yield Row(values, locator.of_streamed(shard, number) if image else None)


def images(source: Source, shard: int, start: int) -> Iterator[tuple[bytes | None, str | None]]:
    """Yield (bytes, path) of a shard's images from row ``start`` on.

    Raises:
        SourceError: the data set cannot be read.
    """
    data, image = load(source), image_column(source)
    try:
        part = data.select_columns(image)
        part = part.shard(data.num_shards, shard) if data.num_shards > 1 else part
        for values in part.skip(start):
            value = values[image]
            if isinstance(value, dict):
                yield value.get("bytes"), value.get("path")
            else:
                yield (value if isinstance(value, bytes) else None), None
    except Exception as error:
        shown = f"{source.paths[0]}, shard {shard}"
        raise SourceError(f"{shown}: cannot be read by datasets: {one_line(error)}") from None
