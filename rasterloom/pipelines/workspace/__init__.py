"""What a workspace holds: staging, status, leases, retries, tombstones."""
