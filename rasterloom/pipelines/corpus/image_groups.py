"""Groups of images that are held out together, and their rows.

An image is known by its SHA-256. The images of one row are connected, and so are a duplicate that the
selection dropped and the image that it kept instead. A group is what is connected so, directly or through
others; its identity is the smallest SHA-256 of the images that kept rows have. Of images that no row
connects, that is the image's own: it stays the same when a corpus grows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rasterloom.pipelines.workspace.status import read_record
from rasterloom.schema import StepKind
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.store import Store
from rasterloom.versions.commit import head_snapshot
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

Numbers = NDArray[np.uint64]

_DIGITS = 16  # of a digest, in hex: among a hundred million, two are the same in one corpus of 4,000
_HEX = f"^[0-9a-fA-F]{{{_DIGITS},}}$"
_NONE = np.zeros(0, np.uint64)


@dataclass(frozen=True)
class ImageGroups:
    """Identities of image groups by the keys of rows."""

    keys: Numbers
    """Of the rows with a known image, sorted, as numbers."""
    identities: Numbers
    """Of each key, the identity of its images' group."""

    def of(self, keys: Sequence[str]) -> list[str]:
        """Return for each row what decides whether it is held out: its group, else its key."""
        numbers, known = key_numbers(pa.chunked_array([pa.array(keys, pa.string())]))
        if not len(self.keys):
            return list(keys)
        at = np.minimum(np.searchsorted(self.keys, numbers), len(self.keys) - 1)
        found = known & (self.keys[at] == numbers)
        return [
            f"{identity:0{_DIGITS}x}" if there else key
            for key, there, identity in zip(keys, found.tolist(), self.identities[at].tolist(), strict=True)
        ]


NO_GROUPS = ImageGroups(_NONE, _NONE)


def groups_of_tokens(corpus: Corpus, tokens: Record) -> ImageGroups:
    """Group the images that tokens were made from. Imported ones have none."""
    codes = record_of_codes(corpus, tokens)
    if codes is None:
        return NO_GROUPS
    images, selection = (_files(corpus, codes, table) for table in ("images", "selection"))
    return read_groups(corpus.store, images, selection)


def record_of_codes(corpus: Corpus, tokens: Record) -> Record | None:
    """Record of the step that some tokens were packed from. None if it is gone."""
    codes = StepKind.CODES.step(tokens.config["target"])
    return read_record(corpus, codes, tokens.inputs[codes]) if codes in tokens.inputs else None


def _files(corpus: Corpus, codes: Record, table: str) -> list[DataFile]:
    """Files of a table that codes were made from. Takedowns since are applied."""
    if table not in codes.inputs:
        return []
    opened = corpus.table(table)
    head = head_snapshot(corpus, opened, table)
    if head and head[1].fingerprint == codes.inputs[table]:
        return corpus.files(table, head[0].snapshot_id)
    before = codes.parents.get(table)
    if opened is not None and before and opened.snapshot_by_id(int(before)):
        return corpus.files(table, int(before))
    return corpus.files(table)  # it is gone: what most of its rows are in


def read_groups(store: Store, images: Sequence[DataFile], selection: Sequence[DataFile]) -> ImageGroups:
    """Group the images of a corpus. Holds some fifty bytes of a row and image.

    Args:
        images: files of the table ``images``; none where only tokens are known.
        selection: files of the table ``selection``.
    """
    kept, dropped, instead = _selected(store, selection)
    rows, shas = _images(store, images)
    order = np.argsort(rows, kind="stable")
    rows, shas = rows[order], shas[order]
    if not len(rows):
        return NO_GROUPS
    nodes, number = np.unique(shas, return_inverse=True)
    # A row's images stand together: each is connected with the next.
    same = rows[1:] == rows[:-1]
    edges = [np.stack([number[:-1][same], number[1:][same]])]
    if len(dropped):
        pairs = np.stack([_first(rows, dropped), _first(rows, instead)])
        edges.append(number[pairs[:, (pairs >= 0).all(axis=0)]])
    group = connected(len(nodes), *np.concatenate(edges, axis=1))
    is_kept = np.isin(rows, kept)
    # Nodes are sorted, so the smallest number of a group's kept images has the smallest digest.
    smallest = np.full(len(nodes), len(nodes))
    np.minimum.at(smallest, group[number[is_kept]], number[is_kept])
    keys, first = np.unique(rows[is_kept], return_index=True)
    of_key = smallest[group[number[is_kept][first]]]
    return ImageGroups(keys, nodes[of_key])


def connected(nodes: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each node's smallest connected node, by edges a-b."""
    parent = np.arange(nodes)
    while True:
        from_a, from_b = parent[a], parent[b]
        apart = from_a != from_b
        if not apart.any():
            return parent
        low, high = np.minimum(from_a, from_b)[apart], np.maximum(from_a, from_b)[apart]
        np.minimum.at(parent, high, low)
        while not np.array_equal(up := parent[parent], parent):
            parent = up


def _selected(store: Store, files: Sequence[DataFile]) -> tuple[Numbers, Numbers, Numbers]:
    """Keys of kept rows, of duplicates, and of those kept instead."""
    kept, dropped, instead = [_NONE], [_NONE], [_NONE]
    for table in read_columns(store, files, ["key", "kept", "duplicate_of"]):
        kept.append(key_numbers(table.filter(table["kept"])["key"])[0])
        duplicates = table.filter(pc.is_valid(table["duplicate_of"]))
        dropped.append(key_numbers(duplicates["key"])[0])
        instead.append(key_numbers(duplicates["duplicate_of"])[0])
    return np.concatenate(kept), np.concatenate(dropped), np.concatenate(instead)


def _images(store: Store, files: Sequence[DataFile]) -> tuple[Numbers, Numbers]:
    """Keys and digests of all images, those in ``more`` too."""
    keys, shas = [_NONE], [_NONE]
    for table in read_columns(store, files, ["key", "sha256", "more.list.element.sha256"]):
        rows = key_numbers(table["key"])[0]
        digests, known = key_numbers(table["sha256"])
        keys.append(rows[known])
        shas.append(digests[known])
        if "more" in table.column_names:
            more = table["more"].combine_chunks()
            digests, known = key_numbers(pa.chunked_array([pc.struct_field(pc.list_flatten(more), "sha256")]))
            keys.append(rows[pc.list_parent_indices(more).to_numpy()][known])
            shas.append(digests[known])
    return np.concatenate(keys), np.concatenate(shas)


def read_columns(store: Store, files: Sequence[DataFile], columns: list[str]) -> Iterator[pa.Table]:
    """Some columns of each row group, those that it has."""
    for file in files:
        with store.filesystem.open_input_file(store.path(file.name)) as source:
            reader = pq.ParquetFile(source)
            there = set(reader.schema_arrow.names)
            wanted = [name for name in columns if name.partition(".")[0] in there]
            for group in range(reader.num_row_groups):
                yield reader.read_row_group(group, columns=wanted)


def key_numbers(texts: pa.ChunkedArray) -> tuple[Numbers, NDArray[np.bool_]]:
    """The first 64 bits of hex digests. Beside it, which texts are digests; others are 0."""
    known = pc.fill_null(pc.match_substring_regex(texts, _HEX), False)
    filled = pc.if_else(known, pc.utf8_slice_codeunits(texts, 0, _DIGITS), "0" * _DIGITS)
    data = bytes.fromhex("".join(filled.to_pylist()))
    return np.frombuffer(data, ">u8").astype(np.uint64), known.combine_chunks().to_numpy(zero_copy_only=False)


def _first(rows: Numbers, wanted: Numbers) -> NDArray[np.int64]:
    """Place of each row's first image among sorted ones, or -1."""
    at = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
    return np.where(rows[at] == wanted, at, -1)
