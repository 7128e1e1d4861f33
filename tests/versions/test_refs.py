"""Tags, branches and rollback: one name in all tables of a corpus."""

from dataclasses import replace

import pytest

from rasterloom.errors import VersionError
from rasterloom.versions.refs import branch, check_ref, delete, refs, rollback, tag


def keys(corpus, table="tokens"):
    return "".join(sorted(row["key"] for row in corpus.read(table).to_pylist()))


@pytest.fixture
def two_tables(corpus, publish, tokens, selection):
    publish(corpus, "s1", selection("AB"), step="selection")
    publish(corpus, "t1", tokens("ab"))
    return corpus


def test_a_tag_stays_where_it_is(two_tables, publish, tokens):
    named = tag(two_tables, "v1")
    assert named.kind == "tag" and sorted(named.snapshots) == ["selection", "tokens"]
    publish(two_tables, "t2", tokens("abc"))
    at_tag = replace(two_tables, ref="v1")
    assert (keys(two_tables), keys(at_tag), keys(at_tag, "selection")) == ("abc", "ab", "ab")
    assert [f.rows for f in at_tag.files("tokens")] == [2]
    by_snapshot = replace(two_tables, ref=str(named.snapshots["tokens"]))
    assert keys(by_snapshot) == "ab" and by_snapshot.files("selection") == []


def test_a_name_is_given_once(two_tables, publish, tokens):
    tag(two_tables, "v1")
    assert tag(two_tables, "v1").snapshots == refs(two_tables)[-1].snapshots, "the same again is no error"
    publish(two_tables, "t2", tokens("abc"))
    with pytest.raises(VersionError, match="tag v1 already, at another version"):
        tag(two_tables, "v1")
    with pytest.raises(VersionError, match="tag v1 already"):
        branch(two_tables, "v1")
    assert delete(two_tables, "v1").kind == "tag"
    tag(two_tables, "v1")
    assert keys(replace(two_tables, ref="v1")) == "abc"


def test_a_tag_that_was_cut_off_is_made_whole(two_tables):
    table = two_tables.table("tokens")
    table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "v1").commit()
    assert len(tag(two_tables, "v1").snapshots) == 2
    assert len(refs(two_tables)[-1].snapshots) == 2


@pytest.mark.parametrize("name", ["main", "12", "", "a b", "@x", "-x"])
def test_what_is_no_name(two_tables, name):
    with pytest.raises(VersionError, match="cannot be a tag"):
        tag(two_tables, name)


def test_a_corpus_without_versions(corpus):
    assert refs(corpus) == []
    with pytest.raises(VersionError, match="has no version yet"):
        tag(corpus, "v1")


def test_a_branch_leaves_main_alone(two_tables, publish, tokens, selection):
    branch(two_tables, "trial")
    trial = replace(two_tables, ref="trial")
    publish(trial, "t2", tokens("xyz"))
    publish(trial, "t3", tokens("q", target=128), step="tokens/128")
    assert (keys(trial), keys(two_tables)) == ("qxyz", "ab")
    publish(two_tables, "t4", tokens("abcd"))
    assert (keys(trial), keys(two_tables)) == ("qxyz", "abcd")
    assert [ref.name for ref in refs(two_tables)] == ["main", "trial"]


def test_a_table_that_is_new_on_a_branch(corpus, publish, tokens, selection):
    publish(corpus, "s1", selection("AB"), step="selection")
    branch(corpus, "trial")
    trial = replace(corpus, ref="trial")
    publish(trial, "t1", tokens("ab"))
    assert keys(trial) == "ab" and corpus.read("tokens").num_rows == 0


def test_versions_do_not_change(two_tables, publish, tokens):
    snapshot = tag(two_tables, "v1").snapshots["tokens"]
    for ref in ("v1", str(snapshot)):
        with pytest.raises(VersionError, match="versions do not change"):
            publish(replace(two_tables, ref=ref), "t2", tokens("x"))
    assert keys(two_tables) == "ab"


def test_rollback_moves_main_and_loses_nothing(two_tables, publish, tokens):
    tag(two_tables, "v1")
    second = publish(two_tables, "t2", tokens("abc"))
    moved = rollback(two_tables, "v1")
    assert list(moved) == ["tokens"] and moved["tokens"][0] == second
    assert keys(two_tables) == "ab"
    assert rollback(two_tables, "v1") == {}
    assert list(rollback(two_tables, str(second))) == ["tokens"] and keys(two_tables) == "abc"


def test_a_version_that_is_not_there_names_those_that_are(two_tables):
    tag(two_tables, "v1")
    for ref in ("v2", "123"):
        with pytest.raises(VersionError, match=f"no branch, tag or snapshot {ref}; .*main, v1"):
            check_ref(replace(two_tables, ref=ref))
    with pytest.raises(VersionError, match=r"no branch or tag v2 .*v1"):
        delete(two_tables, "v2")
    with pytest.raises(VersionError, match="no branch or tag main"):
        delete(two_tables, "main")
