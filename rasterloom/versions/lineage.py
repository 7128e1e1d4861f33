"""Lineage between sources, results and checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from rasterloom.errors import VersionError
from rasterloom.schema import StepKind
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.history import log, made
from rasterloom.versions.record import Record
from rasterloom.versions.refs import refs


@dataclass(frozen=True)
class Node:
    """Result that was made once: a table's version or a folder."""

    record: Record
    table: str | None = None  # None where it is no table
    snapshot_id: int | None = None

    @property
    def name(self) -> str:
        return f"{self.record.step}@{self.snapshot_id or self.record.fingerprint}"


Graph = dict[str, Node]  # by fingerprint


def graph(corpus: Corpus) -> Graph:
    """Return every result on record, in the order of creation."""
    known = [v for ref in refs(corpus) for v in made(replace(corpus, ref=ref.name))]
    nodes = [Node(v.record, v.table, v.snapshot_id) for v in (*known, *reversed(log(corpus)))]
    for name in corpus.store.list(corpus.layout.records):
        if not corpus.layout.is_last(name):
            nodes.append(Node(Record.from_json(corpus.store.read(name))))
    nodes.sort(key=lambda node: node.record.finished)
    return {node.record.fingerprint: node for node in nodes}


def find(nodes: Graph, what: str) -> Node:
    """Return the node of a step, snapshot or start of a fingerprint.

    Raises:
        VersionError: there is none, or a fingerprint's start is that of several.
    """
    named = [node for node in nodes.values() if node.record.step == what]
    if named:
        return named[-1]
    exact = [n for n in nodes.values() if what.isdecimal() and n.snapshot_id == int(what)]
    found = exact or [n for fingerprint, n in nodes.items() if what and fingerprint.startswith(what)]
    if len(found) == 1:
        return found[0]
    steps = ", ".join(dict.fromkeys(node.record.step for node in nodes.values())) or "none yet"
    if found:
        raise VersionError(f"{what} begins {len(found)} fingerprints: give more digits")
    raise VersionError(f"no step, snapshot or fingerprint {what}; the steps on record: {steps}")


def ancestors(nodes: Graph, start: Node) -> list[Node]:
    """Return a result and its ancestors, in the order of creation."""
    return _reach(nodes, start, {f: n.record.inputs.values() for f, n in nodes.items()})


def descendants(nodes: Graph, start: Node) -> list[Node]:
    """Return a result and its descendants, in the order of creation."""
    after: dict[str, list[str]] = {}
    for fingerprint, node in nodes.items():
        for given in node.record.inputs.values():
            after.setdefault(given, []).append(fingerprint)
    return _reach(nodes, start, after)


def _reach(nodes: Graph, start: Node, edges: Mapping[str, Iterable[str]]) -> list[Node]:
    seen = {start.record.fingerprint}
    waiting = list(seen)
    while waiting:
        for other in edges.get(waiting.pop(), ()):
            if other in nodes and other not in seen:
                seen.add(other)
                waiting.append(other)
    return [node for fingerprint, node in nodes.items() if fingerprint in seen]


def keys_of(corpus: Corpus, what: str) -> list[str]:
    """Return the keys of a key, a URL or a file's SHA-256."""
    found: set[str] = set()
    for table, columns in (("pairs", ("key", "url")), ("images", ("key", "url", "final_url", "sha256"))):
        for version in log(corpus, table):
            for column in columns:
                rows = corpus.read(
                    table, ["key"], snapshot_id=version.snapshot_id, where=f"{column} == '{_quoted(what)}'"
                )
                found.update(rows["key"].to_pylist())
    return sorted(found)


def holding(corpus: Corpus, nodes: Graph, keys: Sequence[str]) -> dict[str, list[str]]:
    """Return which of some keys each result of ``tokens`` held, by fingerprint.

    Every version is looked at, as a takedown gives a step's result another one without its rows.
    """
    among = pc.field("key").isin(pa.array(keys, pa.string()))
    in_file: dict[str, list[str]] = {}
    found: dict[str, set[str]] = {}
    for version in log(corpus, "tokens"):
        target = version.record.part
        for file in corpus.files("tokens", version.snapshot_id):
            if file.partition[0] == target:
                if file.name not in in_file:
                    rows = corpus.dataset([file.name]).to_table(columns=["key"], filter=among)
                    in_file[file.name] = rows["key"].to_pylist()
                found.setdefault(version.record.fingerprint, set()).update(in_file[file.name])
    return {fingerprint: sorted(held) for fingerprint, held in found.items() if held and fingerprint in nodes}


def checkpoints_of(corpus: Corpus, nodes: Graph, keys: Sequence[str]) -> dict[str, list[str]]:
    """Return the stages that trained on some keys, by fingerprint.

    A stage that went on from the weights of such a stage counts too. Rows that a stage held out are not
    told apart: it did not learn them, but it was measured on them.
    """
    found: dict[str, list[str]] = {}
    held = holding(corpus, nodes, keys) | _indexed(corpus, nodes, keys)
    for fingerprint, node in nodes.items():
        if node.record.kind is StepKind.TRAIN:
            made_of = {n.record.fingerprint for n in ancestors(nodes, node)}
            seen = sorted({key for given in made_of & held.keys() for key in held[given]})
            if seen:
                found[fingerprint] = seen
    return found


def _indexed(corpus: Corpus, nodes: Graph, keys: Sequence[str]) -> dict[str, list[str]]:
    """Return which of some keys a length index lists.

    For tokens that are gone; by the index's fingerprint.
    """
    found = {}
    for fingerprint, node in nodes.items():
        name = corpus.layout.lengths(node.record.step, fingerprint)
        gone = nodes.keys().isdisjoint(node.record.inputs.values())
        if node.record.kind is StepKind.LENGTHS and gone and corpus.store.exists(name):
            among = pc.field("key").isin(pa.array(keys, pa.string()))
            rows = corpus.dataset([name]).to_table(columns=["key"], filter=among)
            found[fingerprint] = sorted(rows["key"].to_pylist())
    return {fingerprint: held for fingerprint, held in found.items() if held}


def _quoted(text: str) -> str:
    return text.replace("'", "''")
