"""Selection of kept images, with a reason for each dropped one."""

import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rasterloom import schema
from rasterloom.filtering.duplicates import (
    THUMBNAIL_BYTES,
    Candidates,
    find_duplicates,
    hashes_of,
    thumbnails_of,
)
from rasterloom.filtering.rule import (
    check_rule,
    columns_of,
    conjuncts_of,
    connect,
    first_line,
    verdict_of,
    with_derived,
)
from rasterloom.recipe.filtering import Keep
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
    return select_batches([(images, scores)], pa.schema(columns), config, earlier)


def select_batches(
    batches: Iterable[tuple[pa.Table, pa.Table]],
    columns: pa.Schema,
    config: Keep,
    earlier: pa.Array | None = None,
) -> pa.Table:
    """Do as `select`, on batches of images and their scores.

    Args:
        batches: tables with the columns that `columns_needed` names, or more
        columns: of the scores
    """
    check_keep(config, columns)
    judged = _Judged(config, columns)
    with connect() as connection:
        conjuncts = conjuncts_of(connection, config.rule)
        for images, scores in batches:
            if len(images):
                judged.add(connection, conjuncts, images, scores)
    verdict = judged.joined("verdict", np.int16)
    keys = pa.chunked_array(judged.parts["key"], pa.string())
    rows = np.flatnonzero(judged.joined("compared", np.bool_))
    kept_instead = np.arange(len(verdict))
    semantic = np.zeros(len(verdict), bool)
    sha256 = judged.joined("sha256", np.uint64, 2)
    if config.dedup.exact or config.dedup.phash_radius is not None or config.dedup.semantic is not None:
        candidates = judged.candidates(keys.take(pa.array(rows)), sha256[rows], earlier)
        kept, by_meaning = find_duplicates(
            candidates,
            exact=config.dedup.exact,
            radius=config.dedup.phash_radius,
            similarity=config.dedup.semantic,
        )
        kept_instead[rows] = rows[kept]
        semantic[rows] = by_meaning
    # A duplicate of the same bytes as what is kept is exact, however it was found.
    duplicate = (verdict == 0) & (kept_instead != np.arange(len(verdict)))
    exact = duplicate & (sha256 == sha256[kept_instead]).all(axis=1) & sha256.any(axis=1)
    errors = pa.chunked_array(judged.parts["error"], pa.string())
    return _selection(
        keys,
        pa.chunked_array(judged.parts["shard"], pa.int32()),
        verdict,
        np.select([~duplicate, exact, semantic], [0, 1, 3], 2),
        kept_instead,
        [f"rule: {' '.join(part.split())}" for part in conjuncts],
        errors,
    )


class _Judged:
    """Verdicts of a batch's rows, and hashes of pairs that pass.

    A verdict is 0 for a row that passes, n for one that the n-th conjunct stops, -1 for a failed image. The
    rank is higher for what is rather kept of a group of duplicates.
    """

    def __init__(self, config: Keep, columns: pa.Schema) -> None:
        self.config = config
        self.columns = columns
        self.embedding = embedding_column(columns) if config.dedup.semantic is not None else None
        self.parts: dict[str, list[Any]] = {"key": [], "shard": [], "error": []}
        self._numbers: dict[str, list[NDArray[Any]]] = {}
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
        passed = pa.array(np.flatnonzero(compared))
        for name in self.parts:
            self.parts[name] += images[name].chunks
        look = images.select(["phash", "thumbnail"]).take(passed)
        thumbnails, known = thumbnails_of(look["thumbnail"])
        for name, values in (
            ("verdict", verdict),
            ("compared", compared),
            ("sha256", sha256),
            ("rank", rank[compared]),
            ("phash", hashes_of(look["phash"])),
            ("thumbnails", thumbnails),
            ("known", known & look["phash"].is_valid().to_numpy()),
        ):
            self._numbers.setdefault(name, []).append(values)
        if self.embedding:
            self._keep_embeddings(table[self.embedding].take(passed))

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
        return np.asarray(verdict), compared, rank, digests

    def joined(self, name: str, kind: Any, *shape: int) -> NDArray[Any]:
        """Join a column's parts and let them go, one by one: thumbnails are large."""
        parts = self._numbers.pop(name, [])
        result = np.empty((sum(map(len, parts)), *shape), kind)
        end = len(result)
        while parts:
            part = parts.pop()
            result[end - len(part) : end] = part
            end -= len(part)
        return result

    def candidates(
        self, keys: pa.ChunkedArray, sha256: NDArray[np.uint64], earlier: pa.Array | None
    ) -> Candidates:
        n = len(keys)
        kept = np.zeros(n, bool) if earlier is None else pc.is_in(keys, earlier).to_numpy()
        return Candidates(
            keys=keys,
            rank=self.joined("rank", np.float64),
            earlier=kept,
            sha256=sha256,
            phash=self.joined("phash", np.uint64),
            thumbnails=self.joined("thumbnails", np.uint8, THUMBNAIL_BYTES),
            known=self.joined("known", np.bool_),
            embeddings=self._embeddings(n),
        )

    def _keep_embeddings(self, column: pa.ChunkedArray) -> None:
        """Append embeddings, as float16, to a file without a name: they are larger than all the rest."""
        for chunk in column.chunks:
            known = chunk.is_valid().to_numpy(zero_copy_only=False)
            flat = chunk.drop_null().flatten().to_numpy()
            if not self._width and known.any():
                self._width = len(flat) // int(known.sum())
                self._file = tempfile.TemporaryFile(prefix="rasterloom-")  # noqa: SIM115
                self._write(np.full((self._unknown, self._width), np.nan))
            if self._width:
                rows = np.full((len(chunk), self._width), np.nan, np.float16)
                rows[known] = flat.reshape(-1, self._width)
                self._write(rows)
            else:
                self._unknown += len(chunk)

    def _write(self, rows: NDArray[Any]) -> None:
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


def _selection(
    keys: pa.ChunkedArray,
    shards: pa.ChunkedArray,
    verdict: NDArray[np.int16],
    duplicate: NDArray[np.int64],
    kept_instead: NDArray[np.int64],
    stopped: list[str],
    errors: pa.ChunkedArray,
) -> pa.Table:
    """Spell out the reasons. `duplicate` is the place in `WORDS` of each row that passed the rule."""
    encoded = pc.fill_null(errors, "unknown").combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    failed = [f"failed: {error}" for error in encoded.dictionary.to_pylist()]
    words = pa.array([*WORDS, *stopped, *failed], pa.string())
    first_failed = len(WORDS) + len(stopped)
    number = np.select(
        [verdict > 0, verdict == 0],
        [verdict + len(WORDS) - 1, duplicate],
        first_failed + encoded.indices.to_numpy(),
    )
    kept = number == 0
    dropped = (verdict == 0) & ~kept
    return pa.table(
        [
            keys,
            shards,
            pa.array(kept),
            words.take(pa.array(number)),
            keys.take(pa.array(kept_instead, mask=~dropped)),
        ],
        schema=schema.SELECTION,
    )
