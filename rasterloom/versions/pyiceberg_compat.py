"""Private parts of pyiceberg 0.12 that Rasterloom relies on.

Those of its REST client are in rest_catalog.py.
"""

import pyarrow as pa
from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids
from pyiceberg.schema import Schema, assign_fresh_schema_ids

HOLDS_FOR = "0.12"


def iceberg_schema(schema: pa.Schema) -> Schema:
    """Return a pyarrow schema as Iceberg's, with a new table's ids."""
    return assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(schema))
