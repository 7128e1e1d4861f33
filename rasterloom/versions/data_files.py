"""Parquet files as the data files of a table, with their statistics."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import (
    DataFileStatistics,
    MetricModeTypes,
    StatsAggregator,
    compute_statistics_plan,
    parquet_file_to_data_file,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table.metadata import TableMetadata

from rasterloom.storage.footers import Column, Footer

READERS = 16  # of footers at once


def data_files(
    io: FileIO, table: TableMetadata, uris: Sequence[str], footers: Mapping[str, str]
) -> Iterator[DataFile]:
    """Yield files as data files of a table.

    Args:
        footers: texts of ``storage.footers`` by URI; the footers of other files are read.
    """
    statistics = _Statistics(table)
    read = partial(parquet_file_to_data_file, io, table)
    with ThreadPoolExecutor(READERS, thread_name_prefix="footers") as pool:
        unknown = pool.map(read, [uri for uri in uris if uri not in footers])
        for uri in uris:
            if uri in footers:
                yield statistics.data_file(uri, Footer.of_text(footers[uri]))
            else:
                yield next(unknown)


class _Statistics:
    """Statistics of footers, as a table's data files have them."""

    def __init__(self, table: TableMetadata) -> None:
        self._table = table
        schema = table.schema()
        self._plan = compute_statistics_plan(schema, table.properties)
        self._ids = parquet_path_to_id_mapping(schema)
        self._bounds: dict[tuple[int, str], StatsAggregator] = {}

    def data_file(self, uri: str, footer: Footer) -> DataFile:
        """Return a file as pyiceberg would by its footer."""
        sizes, values, nulls = {}, {}, {}
        bounds: dict[int, StatsAggregator] = {}
        for column in footer.columns:
            number = self._ids[column.path]
            sizes[number] = column.bytes
            mode = self._plan[number].mode.type
            if mode is MetricModeTypes.NONE:
                continue
            values[number] = column.values
            if not column.whole:
                continue
            if column.nulls is not None:
                nulls[number] = column.nulls
            if mode is not MetricModeTypes.COUNTS:
                bounds[number] = self._aggregator(number, column)
        found = DataFileStatistics(
            record_count=footer.rows,
            column_sizes=sizes,
            value_counts=values,
            null_value_counts=nulls,
            nan_value_counts={},
            column_aggregates=bounds,
            split_offsets=footer.offsets,
        )
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=uri,
            file_format=FileFormat.PARQUET,
            partition=found.partition(self._table.spec(), self._table.schema()),
            file_size_in_bytes=footer.size,
            sort_order_id=None,
            spec_id=self._table.default_spec_id,
            equality_ids=None,
            key_metadata=None,
            **found.to_serialized_dict(),
        )

    def _aggregator(self, number: int, column: Column) -> StatsAggregator:
        """Return the one of a column, used again for each file: making it takes longer than using it."""
        known = self._bounds.get((number, column.physical))
        if known is None:
            wanted = self._plan[number]
            known = StatsAggregator(wanted.iceberg_type, column.physical, wanted.mode.length)
            self._bounds[number, column.physical] = known
        known.current_min, known.current_max = column.least, column.greatest
        return known
