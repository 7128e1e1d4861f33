"""A corpus of tiny tables, and what commits to them as the runner does."""

import pyarrow as pa
import pytest

from rasterloom.schema import SELECTION, TOKENS
from rasterloom.storage.store import Store
from rasterloom.versions.commit import commit
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record


@pytest.fixture
def corpus(tmp_path):
    return Corpus("demo", Store(str(tmp_path)))


@pytest.fixture
def publish():
    """A function that commits rows to a table of a corpus: selection or tokens, by its columns."""

    def run(corpus, fingerprint, rows, step="tokens/64", inputs=None):
        table = step.split("/")[0]
        schema = {"tokens": TOKENS, "selection": SELECTION}[table]
        name = f"{corpus.name}/staging/{step}/{fingerprint}/data/0.parquet"
        corpus.store.write_parquet(name, pa.Table.from_pylist(rows, schema=schema))
        return commit(
            corpus,
            table,
            schema,
            [name],
            Record(step, fingerprint, "1", {}, inputs or {}, counts={"kept": len(rows)}, rows=len(rows)),
            replaces=f"target == {step.split('/')[1]}" if table == "tokens" else "",
            partition_by=("target", "bucket") if table == "tokens" else (),
        )

    return run


@pytest.fixture
def tokens():
    """A function that gives a row of tokens for each letter."""
    return lambda keys, target=64: [
        {"target": target, "bucket": "64x64", "key": key, "input_ids": [1, 2], "n_tokens": 2} for key in keys
    ]


@pytest.fixture
def selection():
    """A function that gives a row of a selection for each letter, kept if it is a capital."""
    return lambda keys: [
        {"key": key.lower(), "shard": 0, "kept": key.isupper(), "reason": "x"} for key in keys
    ]
