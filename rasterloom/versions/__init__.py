"""Dataset versions: commits to Apache Iceberg tables, their history and lineage."""
