"""Index exported embeddings with clip-retrieval, serve them, and ask for some of them again.

To be run by the Python of clip-retrieval's environment (README.md), on the folder that `rasterloom
embeddings` wrote: python check.py EMBEDDINGS INDEX --clip CHECKPOINT
"""

import argparse
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ASKED = 20  # rows that must be found again
WAIT_S = 300.0  # for the service to load its CLIP and the index


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("--clip", required=True, help="the CLIP of the recipe: a folder, or an id on the hub")
    chosen = parser.parse_args()
    program = str(Path(sys.executable).with_name("clip-retrieval"))
    folders = [f"--embeddings_folder={chosen.embeddings}", f"--index_folder={chosen.index}"]
    subprocess.run([program, "index", *folders], check=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    indices = chosen.index / "indices.json"
    indices.write_text(json.dumps({"corpus": str(chosen.index)}))
    service = subprocess.Popen(
        [
            *(program, "back", f"--indices_paths={indices}", f"--port={port}"),
            f"--clip_model=hf_clip:{chosen.clip}",
            '--columns_to_return=["key","url","caption"]',
            # Each would be downloaded when the service starts.
            *("--enable_mclip_option=False", "--provide_aesthetic_embeddings=False"),
        ]
    )
    try:
        wait_for(service, f"http://127.0.0.1:{port}/indices-list")
        find_again(chosen.embeddings, f"http://127.0.0.1:{port}/knn-service")
    finally:
        service.terminate()
        service.wait(timeout=30)


def wait_for(service: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and service.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                answer.read()
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit(f"clip-retrieval back did not answer within {WAIT_S:.0f} s")


def find_again(embeddings: Path, url: str) -> None:
    """The nearest neighbour of a row's embedding must be the row, under its own key and caption."""
    rows = pd.concat(pd.read_parquet(f) for f in sorted((embeddings / "metadata").glob("*.parquet")))
    vectors = np.concatenate([np.load(f) for f in sorted((embeddings / "img_emb").glob("*.npy"))])
    vectors = vectors.astype(np.float32)
    asked = np.linspace(0, len(rows) - 1, min(ASKED, len(rows))).astype(int)
    found = 0
    for row in asked:
        hits = ask(url, embedding_input=vectors[row].tolist())
        best = vectors[list(rows["key"]).index(hits[0]["key"])]
        # Another row may have the same embedding: accept any row that is equally near.
        found += bool(hits[0]["key"] == rows["key"].iloc[row] or best @ vectors[row] > 0.9999)
    hit = ask(url, text="a red circle")[0]
    print(f"{len(rows)} rows indexed; {found} of {len(asked)} found again by their own embedding")
    print(f"nearest to the words 'a red circle': {hit['caption']!r}, {hit['url']}, {hit['similarity']:.3f}")
    if found < len(asked):
        raise SystemExit("the index does not hold the rows in the order of the metadata")


def ask(url: str, **query: Any) -> list[dict[str, Any]]:
    body = {
        "indice_name": "corpus",
        "modality": "image",
        "num_images": 5,
        "num_result_ids": 5,
        "deduplicate": False,
        "use_safety_model": False,
        "use_violence_detector": False,
        **query,
    }
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
