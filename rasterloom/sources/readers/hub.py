"""Reader of Hugging Face data sets, streamed by the ``datasets`` library.

``hf://owner/name`` is one on the hub, a path is a folder that ``datasets.load_dataset`` understands.
Images are located by shard and row, and read by streaming that shard again.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from rasterloom.errors import SourceError, one_line
from rasterloom.recipe.sources import Source
from rasterloom.sources import locator
from rasterloom.sources.local_paths import BlockedPath, real_folders, real_path
from rasterloom.sources.readers.datasets_compat import with_features
from rasterloom.sources.readers.parquet import check_types
from rasterloom.sources.readers.row import Row, check_columns, is_image

HUB = "hf://"


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
        import datasets  # heavy
    except ImportError:
        raise SourceError(f"{path}: needs the library datasets: pip install 'rasterloom[hf]'") from None
    datasets.disable_progress_bars()
    name = path.removeprefix(HUB).removeprefix("datasets/")
    try:
        builder = datasets.load_dataset_builder(name, source.config, revision=source.revision)
        for files in (builder.config.data_files or {}).values():
            # Images of a folder of images are checked one by one, when they are read.
            by_row = builder.name == "imagefolder"
            _check_files(path, [file for file in files if not (by_row and is_image(file))])
        return with_features(builder.as_streaming_dataset(split=source.split)).decode(False)
    except BlockedPath:
        raise
    except Exception as error:  # it raises whatever its many parts raise
        if "[" in path:  # its own patterns begin with the folder's path, which it does not escape
            raise SourceError(
                f"{path}: datasets takes the brackets for a pattern: rename the folder"
            ) from None
        raise SourceError(f"{path}: cannot be read by datasets: {one_line(error)}") from None


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


def image_column(source: Source) -> str:
    """Return the column of images: what the source names, or the only one of that type, else empty."""
    import datasets  # heavy

    features = load(source).features or {}
    if source.image:
        return source.image
    names = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    return names[0] if len(names) == 1 and source.url not in features else ""


def check(source: Source) -> None:
    """Check the columns of a data set."""
    features = load(source).features
    named = source.model_copy(update={"image": image_column(source)})
    check_columns(source.paths[0], named, list(features or {}))
    if features is not None:
        check_types(source.paths[0], named, features.arrow_schema)


def read(source: Source) -> Iterator[Row]:
    """Yield the rows of all shards, without their images."""
    data, image = load(source), image_column(source)
    rest = data.remove_columns(image) if image else data
    for shard in range(data.num_shards):
        try:
            part = rest.shard(data.num_shards, shard) if data.num_shards > 1 else rest
            for row, values in enumerate(part):
                yield Row(values, locator.of_streamed(shard, row) if image else None)
        except Exception as error:
            shown = f"{source.paths[0]}, shard {shard}"
            raise SourceError(f"{shown}: cannot be read by datasets: {one_line(error)}") from None


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
