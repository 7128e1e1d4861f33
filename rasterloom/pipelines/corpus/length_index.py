"""Length index of a target: one small file to plan an epoch from.

One row for each row of the target's token files, in their order: ``file``, ``key``, ``bucket``, ``task``,
``n_tokens`` (with the longest of its captions, where it has several), and ``heldout``, the share from which
on a row is kept from training: that of its images (`image_groups`), so that rows that share an image are held
out together; and, where sources have sampling weights, ``weight``. The file's metadata hold, under
``rasterloom.files``, each token file's name in the store and the numbers of rows of its row groups, so that
the token files need not be opened before a row is read.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from rasterloom.pipelines.corpus.image_groups import NO_GROUPS, ImageGroups, groups_of_tokens
from rasterloom.pipelines.corpus.pair_weights import PairWeights, read_weights
from rasterloom.pipelines.progress.counts import Unit
from rasterloom.pipelines.step import FileStep, HasResult, StepContext, StepProgress
from rasterloom.pipelines.workspace.status import status
from rasterloom.recipe.base import Section, is_default
from rasterloom.schema import StepKind
from rasterloom.storage.layout import LENGTHS, LENGTHS_FILES
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.store import Store
from rasterloom.train.data.collate import heldout_draw
from rasterloom.train.data.token_dataset import WEIGHT, as_planned, longest_of

COLUMNS = ["key", "bucket", "task", "n_tokens"]


class LengthsAt(Section):
    target: int
    weighted: bool = Field(False, exclude_if=is_default(False))
    """Rows have the sampling weights of their pairs."""


def lengths_step(target: int, tokens: HasResult, weighted: bool) -> HasResult:
    return FileStep(
        StepKind.LENGTHS.step(target),
        LengthsAt(target=target, weighted=weighted),
        "2",  # 2: held out by image
        (tokens,),
        make=make_lengths,
        shows_rows=True,
    )


def make_lengths(context: StepContext[LengthsAt]) -> dict[str, int]:
    """Write the index of a step's token files."""
    corpus = context.corpus
    (tokens,), (given,) = context.step.inputs, context.inputs.values()
    record = status(corpus, tokens).record
    groups = groups_of_tokens(corpus, record) if record else NO_GROUPS
    weights = read_weights(corpus) if context.step.config.weighted else None
    return write_index(corpus.store, given, context.folder / LENGTHS, context.progress, groups, weights)


def write_index(
    store: Store,
    given: list[DataFile],
    path: Path,
    progress: StepProgress,
    groups: ImageGroups = NO_GROUPS,
    weights: PairWeights | None = None,
) -> dict[str, int]:
    """Write the index, a row group for each token file. Count rows and tokens."""
    progress.counted(Unit("files"))
    schema = pa.schema(
        [
            ("file", pa.dictionary(pa.int32(), pa.string())),
            ("key", pa.string()),
            ("bucket", pa.dictionary(pa.int32(), pa.string())),
            ("task", pa.dictionary(pa.int32(), pa.string())),
            ("n_tokens", pa.int32()),
            ("heldout", pa.float64()),
            *([(WEIGHT, pa.float64())] if weights else []),
        ]
    )
    files, counts = [], {"rows": 0, "tokens": 0}
    encodings: dict[str, Any] = {"use_dictionary": ["file", "bucket", "task"], "compression": "zstd"}
    with pq.ParquetWriter(path, schema, **encodings) as writer:
        for number, file in enumerate(given):
            with store.filesystem.open_input_file(store.path(file.name)) as source:
                reader = pq.ParquetFile(source)
                rows = as_planned(reader.read(columns=[*COLUMNS, *longest_of(reader.schema_arrow)]))
                sizes = [reader.metadata.row_group(g).num_rows for g in range(reader.num_row_groups)]
            files.append({"name": file.name, "groups": sizes})
            name = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), len(rows)), [file.name])
            images = groups.of(rows["key"].to_pylist())
            draws = pa.array(map(heldout_draw, images), pa.float64())
            table = rows.add_column(0, "file", name).append_column("heldout", draws)
            if weights:
                table = table.append_column(WEIGHT, pa.array(weights.of(rows["key"])))
            writer.write_table(table.cast(schema))
            counts["rows"] += len(rows)
            counts["tokens"] += rows["n_tokens"].to_numpy().sum(dtype="int64").item()
            progress.advanced(number + 1, len(given))
        writer.add_key_value_metadata({LENGTHS_FILES: json.dumps(files)})
    return counts
