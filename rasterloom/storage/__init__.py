"""Files on a disk or S3, and where each lies in a workspace."""
