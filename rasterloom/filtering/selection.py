"""Selection of kept images, with a reason for each dropped one."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rasterloom import schema
from rasterloom.filtering.disk_columns import DiskColumn
from rasterloom.filtering.duplicates import (
    THUMBNAIL_BYTES,
    Candidates,
    find_duplicates,
    hashes_of,
    thumbnails_of,
)
from rasterloom.filtering.possible_duplicates import with_near_hash, with_same_digest
from rasterloom.filtering.rule import (
    check_rule,
    columns_of,
    conjuncts_of,
    connect,
    first_line,
    verdict_of,
    with_derived,
)
from rasterloom.recipe.filtering import Dedup, Keep
from rasterloom.storage.local_disk import temporary_disk
from rasterloom.utils.private_folders import private_folder
from rasterloom.utils.suggest import did_you_mean

__all__ = ["check_keep", "check_rule", "columns_needed", "select", "select_batches"]

ORIGINAL_AREA = "coalesce(original_width::bigint * original_height, width::bigint * height)"
ALWAYS_NEEDED = (
    *("key", "shard", "status", "error", "sha256", "phash", "thumbnail"),
    *("original_width", "original_height", "width", "height", "task", "main"),
)
# Duplicates are sought among plain pairs: sets of edits or of questions use one image many times.
COMPARED = f"coalesce(task, '{schema.T2I}') = '{schema.T2I}' and main is null"

WORDS = ("kept", "exact duplicate", "near duplicate", "semantic duplicate")
TABLE_ROWS = 1 << 20  # of a table that is given out at a time
_JUDGED = pa.schema(
    [("key", pa.string()), ("shard", pa.int32()), ("error", pa.string()), ("verdict", pa.int16())]
)


def check_keep(config: Keep, scores: pa.Schema) -> None:
    """Check a recipe's keep rule and duplicate settings against its scores.

    Raises:
        ValueError: in one line, see `check_rule`
    """
    check_rule(config.rule, scores)
    numbers = [f.name for f in scores if pa.types.is_floating(f.type)]
    if config.dedup.prefer and config.dedup.prefer not in numbers:
        known = did_you_mean(config.dedup.prefer, numbers)
        raise ValueError(f"dedup.prefer names {config.dedup.prefer!r}, which is no score; {known}")
    if config.dedup.semantic is not None and embedding_column(scores) is None:
        raise ValueError(
            "dedup.semantic compares embeddings, and no score keeps them; "
            "add to the scores, for example: {clip: {keep_embeddings: true}}"
        )


def columns_needed(config: Keep, scores: pa.Schema) -> tuple[list[str], list[str]]:
    """Return the columns of images and of scores that a selection reads: no images, and little text."""
    named = {name.lower() for name in columns_of(config.rule)} | {config.dedup.prefer}
    given = [name for name in scores.names if name in named]
    if config.dedup.semantic is not None:
        given += [name for name in (embedding_column(scores),) if name]
    # A derived column stands for those that it is made of, of which only the caption is not read anyway.
    images = {*ALWAYS_NEEDED, *named, *(["caption"] if "caption_length" in named else [])}
    return [name for name in schema.IMAGES.names if name in images], ["key", *given]


def embedding_column(scores: pa.Schema) -> str | None:
    """Return the column of images' embeddings, if a score keeps them."""
    kept = [f.name for f in scores if pa.types.is_list(f.type) and not f.name.endswith("_text_embedding")]
    return kept[0] if kept else None


def select(images: pa.Table, scores: pa.Table, config: Keep, earlier: pa.Array | None = None) -> pa.Table:
    """Apply the keep rule, then drop duplicates among what it kept.

    A row whose image failed, or for which the rule is null, is not kept; a sample without an image is
    where a part of the rule is null. Duplicates are sought among text-to-image pairs only.

    Args:
        images: `schema.IMAGES`, without the columns `image` and `more`
        scores: `schema.SCORES` and the scores; rows in any order, one for each key at most
        earlier: keys that the last version kept; of a group of duplicates, they are rather kept than others

    Returns:
        `schema.SELECTION`, a row for each row of `images`, in their order

    Raises:
        ValueError: the rule cannot be used, see `check_rule`, or fails on a row
    """
    columns = [field for field in scores.schema if field.name not in schema.SCORES.names]
    before = None if earlier is None else [earlier]
    return pa.concat_tables(select_batches([(images, scores)], pa.schema(columns), config, before))


def select_batches(
    batches: Iterable[tuple[pa.Table, pa.Table]],
    columns: pa.Schema,
    config: Keep,
    earlier: Iterable[pa.Array] | None = None,
) -> Iterator[pa.Table]:
    """Do as `select`, on batches of images and their scores.

    What is known of rows waits on disk, in the folder for temporary files. In memory are three bytes of each,
    and the rows that may have a duplicate.

    Args:
        batches: tables with the columns that `columns_needed` names, or more
        columns: of the scores
        earlier: keys that the last version kept, in any parts

    Yields:
        tables of up to ``TABLE_ROWS`` rows
    """
    check_keep(config, columns)
    judged = _Judged(config, columns)
    with connect() as connection:
        conjuncts = conjuncts_of(connection, config.rule)
        for images, scores in batches:
            if len(images):
                judged.add(connection, conjuncts, images, scores)
    dropped = _drop_duplicates(judged, config.dedup, earlier)
    stopped = [f"rule: {' '.join(part.split())}" for part in conjuncts]
    waiting: list[pa.Table] = []
    for start, batch in judged.batches():
        for cut in range(0, len(batch), TABLE_ROWS):
            part = batch.slice(cut, TABLE_ROWS)
            if sum(map(len, waiting)) + len(part) > TABLE_ROWS:
                yield pa.concat_tables(waiting)
                waiting = []
            waiting.append(_selection(part, dropped, start + cut, stopped))
    yield pa.concat_tables(waiting or [schema.SELECTION.empty_table()])


@dataclass(frozen=True)
class _Dropped:
    """Duplicates of kept rows."""

    rows: NDArray[np.int64]
    """Ascending."""
    words: NDArray[np.int64]
    """Place in `WORDS` of each."""
    kept_instead: pa.Array
    """Key of the row kept in place of each."""


def _drop_duplicates(judged: "_Judged", dedup: Dedup, earlier: Iterable[pa.Array] | None) -> _Dropped:
    """Compare the rows that may have duplicates with each other."""
    possible = judged.possible(dedup)
    places = np.flatnonzero(possible)
    rows = judged.row.take(places)
    found = judged.candidates(places, rows, earlier)
    kept, by_meaning = find_duplicates(
        found,
        exact=dedup.exact,
        radius=dedup.phash_radius,
        similarity=dedup.semantic,
        others=int((judged.known & ~possible).sum()),
    )
    dropped = np.flatnonzero(kept != np.arange(len(kept)))
    instead, digests = kept[dropped], found.sha256[dropped]
    # A duplicate of the same bytes as what is kept is exact, however it was found.
    exact = (digests == found.sha256[instead]).all(axis=1) & digests.any(axis=1)
    words = np.select([exact, by_meaning[dropped]], [1, 3], 2)
    return _Dropped(rows[dropped], words, found.keys.take(pa.array(instead)).combine_chunks())


class _Judged:
    """Verdicts of rows, and what duplicates are found by, on disk.

    A verdict is 0 for a row that passes, n for one that the n-th conjunct stops, -1 for a failed image. The
    rank is higher for what is rather kept of a group of duplicates.
    """

    def __init__(self, config: Keep, columns: pa.Schema) -> None:
        self.config = config
        self.columns = columns
        self.embedding = embedding_column(columns) if config.dedup.semantic is not None else None
        self.rows = 0
        # Of all rows, and then of those that are compared.
        self._folder = str(private_folder("selection"))
        self._batches = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_stream(self._batches, _JUDGED, options=options)
        self.row = DiskColumn(np.int64)
        self._rank = DiskColumn(np.float64)
        self._sha256 = DiskColumn(np.uint64, 2)
        self._phash = DiskColumn(np.uint64)
        self._thumbnails = DiskColumn(np.uint8, THUMBNAIL_BYTES)
        self._known: list[NDArray[np.bool_]] = [np.empty(0, bool)]
        self._file: Any = None
        self._width = self._unknown = 0  # of the embeddings; rows that came before the first of them

    def add(
        self,
        connection: duckdb.DuckDBPyConnection,
        conjuncts: list[str],
        images: pa.Table,
        scores: pa.Table,
    ) -> None:
        table = _join(images, scores, [name for name in self.columns.names if name in scores.column_names])
        verdict, compared, rank, sha256 = self._judge(connection, conjuncts, table)
        whole = images.select(["key", "shard", "error"]).append_column("verdict", pa.array(verdict))
        with temporary_disk(self._folder):
            self._writer.write_table(whole.cast(_JUDGED).combine_chunks())
        passed = np.flatnonzero(compared)
        look = images.select(["phash", "thumbnail"]).take(pa.array(passed))
        thumbnails, known = thumbnails_of(look["thumbnail"])
        self.row.add(self.rows + passed)
        self._rank.add(rank[compared])
        self._sha256.add(sha256[compared])
        self._phash.add(hashes_of(look["phash"]))
        self._thumbnails.add(thumbnails)
        self._known.append(known & look["phash"].is_valid().to_numpy())
        self.rows += len(table)
        if self.embedding:
            self._keep_embeddings(table[self.embedding].take(pa.array(passed)))

    def _judge(
        self, connection: duckdb.DuckDBPyConnection, conjuncts: list[str], table: pa.Table
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_], NDArray[np.float64], NDArray[np.uint64]]:
        prefer = self.config.dedup.prefer
        preferred = f'"{prefer}"' if prefer else ORIGINAL_AREA
        derived = [name for name in table.column_names if name != "thumbnail"]
        connection.register("source", table.select(derived))
        # 128 bits of another digest of it, which come as numbers
        sha256 = "coalesce(md5_number_lower(sha256), 0), coalesce(md5_number_upper(sha256), 0)"
        query = f"""
            select {verdict_of(conjuncts)}, ({COMPARED}), ({preferred})::double, {sha256}
            from ({with_derived("source", derived)})"""
        try:
            columns = connection.execute(query).fetchnumpy()
        except duckdb.Error as error:
            raise ValueError(f"the rule fails on a row: {first_line(error)}") from None
        verdict, plain, *numbers = columns.values()
        rank, *halves = (np.ma.filled(column, np.nan) for column in numbers)
        compared = (np.asarray(verdict) == 0) & np.asarray(plain)
        digests = np.stack([half.astype(np.uint64) for half in halves], axis=1)
        return np.asarray(verdict, np.int16), compared, rank, digests

    @property
    def known(self) -> NDArray[np.bool_]:
        """Compared rows whose hash and thumbnail are there."""
        return np.concatenate(self._known)

    def batches(self) -> Iterator[tuple[int, pa.Table]]:
        """Batches of `_JUDGED`, each with the number of its first row."""
        self._writer.close()
        self._batches.seek(0)
        start = 0
        for batch in pa.ipc.open_stream(self._batches):
            yield start, pa.Table.from_batches([batch])
            start += len(batch)

    def possible(self, dedup: Dedup) -> NDArray[np.bool_]:
        """Compared rows that may have duplicates."""
        if dedup.semantic is not None:
            return np.ones(self.row.rows, bool)
        found = np.zeros(self.row.rows, bool)
        if dedup.exact:
            found |= with_same_digest(self._sha256)
        if dedup.phash_radius is not None:
            found |= with_near_hash(self._phash, self.known, dedup.phash_radius)
        return found

    def candidates(
        self, places: NDArray[np.int64], rows: NDArray[np.int64], earlier: Iterable[pa.Array] | None
    ) -> Candidates:
        """Take some of the compared rows.

        Args:
            places: of them among the compared rows, ascending
            rows: their numbers among all rows
            earlier: keys that the last version kept
        """
        keys = []
        for start, batch in self.batches():
            first, end = np.searchsorted(rows, [start, start + len(batch)])
            keys += batch["key"].take(pa.array(rows[first:end] - start)).chunks
        chosen = pa.chunked_array(keys, pa.string())
        kept = np.zeros(len(rows), bool)
        for part in earlier or ():
            kept |= pc.is_in(chosen, part).to_numpy()
        return Candidates(
            keys=chosen,
            rank=self._rank.take(places),
            earlier=kept,
            sha256=self._sha256.take(places),
            phash=self._phash.take(places),
            thumbnails=self._thumbnails.take(places),
            known=self.known[places],
            embeddings=self._embeddings(len(places)),
        )

    def _keep_embeddings(self, column: pa.ChunkedArray) -> None:
        """Append embeddings, as float16, to a file without a name: they are larger than all the rest."""
        for chunk in column.chunks:
            known = chunk.is_valid().to_numpy(zero_copy_only=False)
            flat = chunk.drop_null().flatten().to_numpy()
            if not self._width and known.any():
                self._width = len(flat) // int(known.sum())
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                self._write(np.full((self._unknown, self._width), np.nan))
            if self._width:
                rows = np.full((len(chunk), self._width), np.nan, np.float16)
                rows[known] = flat.reshape(-1, self._width)
                self._write(rows)
            else:
                self._unknown += len(chunk)

    def _write(self, rows: NDArray[Any]) -> None:
        with temporary_disk(self._folder):
            self._file.write(rows.astype(np.float16).tobytes())

    def _embeddings(self, n: int) -> NDArray[Any] | None:
        if not self._width:
            return None
        self._file.flush()
        return np.memmap(self._file, np.float16, "r", shape=(n, self._width))


def _join(images: pa.Table, scores: pa.Table, names: Sequence[str]) -> pa.Table:
    """Put scores beside their images. The score of an image without a row in `scores` is null."""
    aligned = scores.select(list(names))
    if not images["key"].equals(scores["key"]):
        aligned = aligned.take(pc.index_in(images["key"], scores["key"].combine_chunks()))
    table = images.drop_columns([name for name in ("image", "more") if name in images.column_names])
    for name in names:
        table = table.append_column(name, aligned[name])
    return table


def _selection(judged: pa.Table, dropped: _Dropped, start: int, stopped: list[str]) -> pa.Table:
    """Spell out the reasons of rows from number ``start`` on. ``stopped`` says those of the rule."""
    encoded = pc.fill_null(judged["error"], "unknown").combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    failed = [f"failed: {error}" for error in encoded.dictionary.to_pylist()]
    words = pa.array([*WORDS, *stopped, *failed], pa.string())
    verdict, first_failed = judged["verdict"].to_numpy(), len(WORDS) + len(stopped)
    first, end = np.searchsorted(dropped.rows, [start, start + len(judged)])
    here = dropped.rows[first:end] - start
    duplicate, instead = np.zeros(len(judged), np.int64), np.zeros(len(judged), np.int64)
    duplicate[here], instead[here] = dropped.words[first:end], np.arange(first, end)
    number = np.select(
        [verdict > 0, verdict == 0],
        [verdict + len(WORDS) - 1, duplicate],
        first_failed + encoded.indices.to_numpy(),
    )
    return pa.table(
        [
            judged["key"],
            judged["shard"],
            pa.array(number == 0),
            words.take(pa.array(number)),
            dropped.kept_instead.take(pa.array(instead, mask=duplicate == 0)),
        ],
        schema=schema.SELECTION,
    )
