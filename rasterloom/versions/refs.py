"""Tags and branches of a corpus, across all its tables."""

import re
from dataclasses import dataclass

from pyiceberg.table import Table

from rasterloom.errors import VersionError
from rasterloom.utils.suggest import did_you_mean
from rasterloom.versions.corpus import MAIN, TABLES, Corpus

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")  # a number would be a snapshot's


@dataclass(frozen=True)
class Ref:
    """Branch or tag, and the snapshot it names in each table."""

    name: str
    kind: str  # "branch" or "tag"
    snapshots: dict[str, int]


def refs(corpus: Corpus) -> list[Ref]:
    """Return the branches, ``main`` first, and the tags of a corpus."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for name in TABLES:
        table = corpus.table(name)
        for ref, at in table.refs().items() if table else ():
            found.setdefault((at.snapshot_ref_type.value, ref), {})[name] = at.snapshot_id
    order = sorted(found, key=lambda key: (key[0], key[1] != MAIN, key[1]))
    return [Ref(name, kind, found[kind, name]) for kind, name in order]


def check_ref(corpus: Corpus) -> None:
    """Raise VersionError if no table has the corpus's ``ref``."""
    if corpus.ref == MAIN or any(corpus.snapshot_id(name) is not None for name in TABLES):
        return
    known = did_you_mean(corpus.ref, (ref.name for ref in refs(corpus)), "its branches and tags: ")
    raise VersionError(f"{corpus.name} has no branch, tag or snapshot {corpus.ref}; {known}")


def tag(corpus: Corpus, name: str) -> Ref:
    """Tag the versions that the tables have at the corpus's ``ref``.

    Raises:
        VersionError: the name is none or is taken by another version, or there is no version to name.
    """
    return _create(corpus, name, "tag")


def branch(corpus: Corpus, name: str) -> Ref:
    """Create a branch at the corpus's ``ref``.

    A recipe of ``corpus: NAME@BRANCH`` commits to it, not to main.

    Raises:
        VersionError: as for ``tag``.
    """
    return _create(corpus, name, "branch")


def _create(corpus: Corpus, name: str, kind: str) -> Ref:
    if not _NAME.fullmatch(name) or name == MAIN:
        raise VersionError(
            f"{name!r} cannot be a {kind}: letters, digits, _ . and -, a letter first, not main"
        )
    check_ref(corpus)
    heads = {table: id_ for table in TABLES if (id_ := corpus.snapshot_id(table)) is not None}
    if not heads:
        raise VersionError(f"{corpus.name} has no version yet: rasterloom run RECIPE")
    there = next((ref for ref in refs(corpus) if ref.name == name), None)
    if there and (there.kind != kind or any(heads.get(t) != id_ for t, id_ in there.snapshots.items())):
        raise VersionError(f"there is a {there.kind} {name} already, at another version; delete it first")
    for table, snapshot_id in heads.items():  # a call that was cut off is made whole by the next one
        if there is None or table not in there.snapshots:
            snapshots = _open(corpus, table).manage_snapshots()
            create = snapshots.create_tag if kind == "tag" else snapshots.create_branch
            create(snapshot_id, name).commit()
    return Ref(name, kind, heads)


def delete(corpus: Corpus, name: str) -> Ref:
    """Delete a tag or branch; ``gc`` may then remove its files.

    Raises:
        VersionError: there is none of this name, or it is main.
    """
    found = next((ref for ref in refs(corpus) if ref.name == name), None)
    if found is None or name == MAIN:
        known = did_you_mean(name, (ref.name for ref in refs(corpus) if ref.name != MAIN), "there are: ")
        raise VersionError(f"no branch or tag {name} that could be deleted; {known}")
    for table in found.snapshots:
        snapshots = _open(corpus, table).manage_snapshots()
        (snapshots.remove_tag if found.kind == "tag" else snapshots.remove_branch)(name).commit()
    return found


def rollback(corpus: Corpus, to: str, tables: tuple[str, ...] = TABLES) -> dict[str, tuple[int, int]]:
    """Reset ``main`` of the tables to a tag, branch or snapshot.

    Nothing is removed.

    Returns:
        For each table that moved, the snapshot it was at and the one it is at now. A snapshot's id moves the
        one table that has it.

    Raises:
        VersionError: there is no such version.
    """
    there = Corpus(corpus.name, corpus.store, corpus.catalog_properties, to)
    check_ref(there)
    moved = {}
    for name in tables:
        before, after = corpus.snapshot_id(name), there.snapshot_id(name)
        if before is not None and after is not None and before != after:
            _open(corpus, name).manage_snapshots().set_current_snapshot(after).commit()
            moved[name] = (before, after)
    return moved


def _open(corpus: Corpus, name: str) -> Table:
    table = corpus.table(name)
    assert table is not None
    return table
