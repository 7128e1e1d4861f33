"""Index exported embeddings with clip-retrieval as a Ray task, in a separate environment.

python infra/clip-retrieval/on_ray.py EMBEDDINGS INDEX [--address ADDRESS] [--env ENVIRONMENT]

The folders must be where the task can reach them: on a disk that the nodes share. Without --env, Ray creates
the environment on the node that runs the task (6 GB, some minutes); with --env, it exists already, in the
image or on the shared disk.
"""

import argparse
import os
from pathlib import Path

import ray

from rasterloom.utils.local_ray import start_local_ray

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def index(embeddings: str, folder: str, environment: str | None) -> list[str]:
    import subprocess
    import sys

    options = [f"--embeddings_folder={embeddings}", f"--index_folder={folder}"]
    subprocess.run([f"{environment or sys.prefix}/bin/clip-retrieval", "index", *options], check=True)
    return sorted(os.listdir(folder))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("--address", help="of a Ray cluster; a Ray of this machine without it")
    parser.add_argument("--env", type=Path, help="folder of a virtual environment with clip-retrieval")
    parser.add_argument("--cpus", type=float, default=1)
    chosen = parser.parse_args()
    if chosen.address:
        ray.init(address=chosen.address)
    else:
        start_local_ray(include_dashboard=False)
    environment: dict[str, object] = {}
    if chosen.env is None:
        packages = [line for line in REQUIREMENTS.read_text().splitlines() if line and line[0] != "#"]
        environment = {"pip": {"packages": packages}, "config": {"setup_timeout_seconds": 3600}}
    task = ray.remote(num_cpus=chosen.cpus, runtime_env=environment)(index)
    folders = [str(path.resolve()) for path in (chosen.embeddings, chosen.index)]
    made = ray.get(task.remote(*folders, str(chosen.env.absolute()) if chosen.env else None))
    print(f"{chosen.index}: {', '.join(made)}")


if __name__ == "__main__":
    main()
