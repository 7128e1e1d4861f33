"""The difference of two versions of a table."""

import os
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rasterloom.schema import SELECTION
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.diff import diff
from rasterloom.versions.refs import tag


def between(corpus, a, b, table, **options):
    return diff(replace(corpus, ref=a), replace(corpus, ref=b), table, **options)


def test_added_removed_and_changed_by_column(corpus, publish, selection):
    publish(corpus, "1", selection("aBC"), step="selection")
    tag(corpus, "v1")
    rows = selection("abCd")
    rows[2]["reason"] = "another"
    publish(corpus, "2", rows[1:], step="selection")
    tag(corpus, "v2")
    found = between(corpus, "v1", "v2", "selection")
    assert (found.rows_a, found.rows_b) == (3, 3)
    assert (found.added, found.removed, found.changed) == (1, 1, 2)
    assert found.columns == {"kept": 1, "reason": 1}
    assert found.examples == {"added": ["d"], "removed": ["a"], "changed": ["b", "c"]}
    assert not found.same and between(corpus, "v2", "v2", "selection").same


def test_rows_of_tokens_are_distinguished_by_target(corpus, publish, tokens):
    publish(corpus, "1", tokens("ab"))
    tag(corpus, "v1")
    publish(corpus, "2", tokens("ab", target=128), step="tokens/128")
    found = between(corpus, "v1", "main", "tokens")
    assert (found.added, found.removed, found.changed) == (2, 0, 0)


def test_a_column_that_is_new(corpus):
    schema = pa.schema([("key", pa.string()), ("quality", pa.float64())])
    from rasterloom.versions.commit import commit
    from rasterloom.versions.record import Record

    for number, columns in enumerate((schema, schema.append(pa.field("clip", pa.float64())))):
        name = f"demo/{number}.parquet"
        row = {"key": "a", "quality": 1.0, "clip": 0.5}
        corpus.store.write_parquet(name, pa.Table.from_pylist([row], schema=columns))
        commit(corpus, "scores", columns, [name], Record("scores", f"f{number}", "1", {}, {}))
        tag(corpus, f"v{number}")
    found = between(corpus, "v0", "v1", "scores")
    assert found.columns_added == ("clip",) and found.changed == 0 and not found.same


def test_a_version_that_lacks_the_table(corpus, publish, tokens, selection):
    publish(corpus, "1", selection("ab"), step="selection")
    tag(corpus, "v1")
    publish(corpus, "2", tokens("ab"))
    assert between(corpus, "v1", "main", "tokens").added == 2
    assert between(corpus, "main", "v1", "tokens").removed == 2
    assert between(corpus, "v1", "v1", "tokens").same


ROWS = st.dictionaries(st.sampled_from("abcdefgh"), st.booleans(), max_size=8)


@given(before=ROWS, after=ROWS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_is_what_dictionaries_say(tmp_path_factory, publish, before, after):
    corpus = Corpus("demo", Store(str(tmp_path_factory.mktemp("diff"))))
    for number, rows in enumerate((before, after)):
        table = [{"key": key, "shard": 0, "kept": kept, "reason": None} for key, kept in rows.items()]
        publish(corpus, f"f{number}", table, step="selection")
        tag(corpus, f"v{number}")
    found = between(corpus, "v0", "v1", "selection")
    assert found.added == len(after.keys() - before.keys())
    assert found.removed == len(before.keys() - after.keys())
    assert found.changed == sum(before[k] != after[k] for k in before.keys() & after.keys())
    assert SELECTION.names == ["key", "shard", "kept", "reason", "duplicate_of"]


AT_ITS_LIMIT = """
import resource, sys
from dataclasses import replace
from rasterloom.storage.store import StorageError, Store
from rasterloom.versions.diff import diff
from rasterloom.versions.corpus import Corpus
corpus = Corpus("demo", Store(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    diff(corpus, replace(corpus, ref="v1"), "selection")
except StorageError as error:
    print(error)
"""


def test_a_temporary_folder_without_room_is_one_line(corpus, publish, selection, tmp_path):
    publish(corpus, "1", selection("ab"), step="selection")
    tag(corpus, "v1")
    publish(corpus, "2", selection("bc"), step="selection")
    command = [sys.executable, "-c", AT_ITS_LIMIT, corpus.store.root]
    done = subprocess.run(
        command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=120
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path}: ") and line.endswith("or set TMPDIR to a folder that has it"), done
