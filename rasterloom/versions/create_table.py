"""Creation of a table, once, however many drivers need it."""

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException, TableAlreadyExistsError
from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform

from rasterloom.versions.corpus import Corpus
from rasterloom.versions.pyiceberg_compat import iceberg_schema

logger = logging.getLogger(__name__)
MAKING_S = 30.0  # after which whoever is at it is taken to be gone


def open_or_create(corpus: Corpus, name: str, schema: pa.Schema, partition_by: tuple[str, ...]) -> Table:
    """Open a table, and make it first if there is none.

    Args:
        partition_by: columns whose values are the partitions of a table that is made.
    """
    identifier = corpus.identifier(name)
    if corpus.catalog.table_exists(identifier):
        return corpus.catalog.load_table(identifier)
    _have_namespace(corpus)
    with _alone(corpus, name):
        if corpus.catalog.table_exists(identifier):
            return corpus.catalog.load_table(identifier)
        fields = iceberg_schema(schema)
        parts = [
            PartitionField(fields.find_field(column).field_id, number, IdentityTransform(), column)
            for number, column in enumerate(partition_by, PARTITION_FIELD_ID_START)
        ]
        try:
            return corpus.catalog.create_table(
                identifier,
                fields,
                location=corpus.location(name),
                partition_spec=PartitionSpec(*parts),
                # A retry must look again whether the step is already there, so it is ours to make.
                properties={"commit.retry.num-retries": "0", "format-version": "2"},
            )
        except (TableAlreadyExistsError, CommitFailedException):  # by another driver; its table is the same
            return corpus.catalog.load_table(identifier)


def _have_namespace(corpus: Corpus) -> None:
    try:
        corpus.catalog.create_namespace(corpus.name)
    except Exception:  # another driver was first, which each kind of catalog says in its own way
        if not corpus.catalog.namespace_exists(corpus.name):
            raise


@contextmanager
def _alone(corpus: Corpus, name: str) -> Iterator[None]:
    """Let one driver at a time make a table.

    A catalog ought to see to that. SeaweedFS's lets two drivers make one table at the same time: the second
    takes the place of the first, with all that was committed to it. A driver that dies in here holds up the
    others for ``MAKING_S``, once.
    """
    mark = f"{corpus.name}/creating/{name}"
    driver = uuid.uuid4().bytes
    until = time.monotonic() + MAKING_S
    while not (won := corpus.store.put_if_absent(mark, driver)) and time.monotonic() < until:
        time.sleep(0.2)
    if not won:
        logger.warning("%s is taken over from a driver that did not finish in %.0f s", mark, MAKING_S)
    try:
        yield
    finally:
        corpus.store.delete(mark)
