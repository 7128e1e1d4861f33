"""Index exported embeddings with clip-retrieval as a Ray task, in a runtime environment of its own.

python infra/clip-retrieval/on_ray.py EMBEDDINGS INDEX [--address ADDRESS]

The folders must be where the task can reach them: on a disk that the nodes share. The environment is made
once on each node that a task runs on (some gigabytes) and used again.
"""

import argparse
import os
from pathlib import Path

import ray

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def index(embeddings: str, folder: str) -> list[str]:
    import subprocess
    import sys

    options = [f"--embeddings_folder={embeddings}", f"--index_folder={folder}"]
    subprocess.run([f"{sys.prefix}/bin/clip-retrieval", "index", *options], check=True)
    return sorted(os.listdir(folder))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("--address", help="of a Ray cluster; a Ray of this machine without it")
    parser.add_argument("--cpus", type=float, default=1)
    chosen = parser.parse_args()
    lines = REQUIREMENTS.read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    ray.init(address=chosen.address, include_dashboard=False)
    environment = {"pip": {"packages": packages}, "config": {"setup_timeout_seconds": 1800}}
    task = ray.remote(num_cpus=chosen.cpus, runtime_env=environment)(index)
    made = ray.get(task.remote(str(chosen.embeddings.resolve()), str(chosen.index.resolve())))
    print(f"{chosen.index}: {', '.join(made)}")


if __name__ == "__main__":
    main()
