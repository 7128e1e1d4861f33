"""Files on a disk or S3, and the layout of a workspace."""
