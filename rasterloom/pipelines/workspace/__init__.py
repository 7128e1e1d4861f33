"""Contents of a workspace: staging, status, leases, retries, tombstones."""
