"""A Ray cluster on this machine, in a process of its own: a head with a dashboard, raylets that come and go.

Takes the dashboard's port; prints the folder of the session; then does what it is told on stdin, a line
each: `add NAME {"num_cpus": 1}`, `remove NAME`, which takes a node in the middle of a shard, or
`vanish NAME`, which takes it at once; and answers `ok`. It ends when stdin does.
"""

import contextlib
import json
import shutil
import socket
import sys
import tempfile
import time

import psutil
from ray._private.utils import write_ray_address
from ray.cluster_utils import Cluster

MEMORY = 100 * 2**20


def options():
    """Of any node: the agent's port would be the same for all clusters of a machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return {"object_store_memory": MEMORY, "dashboard_agent_listen_port": port}


def hold_at_work(raylet):
    """Stop a node's worker in the middle of a shard. Wait for one, and return it."""
    while True:
        for worker in psutil.Process(raylet).children():
            with contextlib.suppress(psutil.Error):
                if "run_shard" in " ".join(worker.cmdline()):
                    worker.suspend()
                    if "run_shard" in " ".join(worker.cmdline()):
                        return worker
                    worker.resume()
        time.sleep(0.005)


# Sockets lie in it, whose paths must be short.
folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
cluster = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": 1,
        "resources": {"steady": 1},
        **options(),
        "include_dashboard": True,
        "dashboard_port": int(sys.argv[1]),
        "temp_dir": folder,
    },
)
# Else a job would look for any cluster that runs on this machine, and may find another.
write_ray_address(cluster.address, folder)
nodes = {}
try:
    print(cluster.head_node.get_session_dir_path(), flush=True)
    for line in sys.stdin:
        word, name, *given = line.split(maxsplit=2)
        if word == "add":
            # A folder of its own, as on a machine of its own: a job's folder is unpacked anew on each node.
            place = f"{folder}/{name}"
            nodes[name] = cluster.add_node(**options(), temp_dir=place, **json.loads(given[0]))
        elif word == "vanish":
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
        else:
            node = nodes.pop(name)
            worker = hold_at_work(node.all_processes["raylet"][0].process.pid)
            cluster.remove_node(node, allow_graceful=False)
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()  # it would hear of its node's end, were it not stopped
        print("ok", flush=True)
finally:
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
