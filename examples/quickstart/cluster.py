"""Writes the folder to submit for docs/cluster-quickstart.md, and serves its images.

The folder has recipe.yaml, the small quickstart's with its workspace on S3, and the lists of pairs. It then
serves the images until it is interrupted.
"""

import argparse
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path

from demo import site_of
from server import serve
from website import build_site

from rasterloom.recipe.loader import load_recipe

SMALL = Path(__file__).resolve().parents[1] / "quickstart-small.yaml"


def main() -> int:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folder", type=Path, metavar="FOLDER", help="new folder for recipe and lists")
    arguments.add_argument("--s3", type=Path, default=Path("work/s3"), help="the one of infra/s3/local.sh")
    arguments.add_argument("--scenes", type=int, default=400, help="scenes to draw (default: %(default)s)")
    arguments.add_argument("--port", type=int, help="of the web site (default: the recipe's)")
    options = arguments.parse_args()
    where = options.s3 / "recipe.yaml"
    if not where.exists():
        sys.exit(f"{where} is not there: infra/s3/local.sh {options.s3} starts an S3 server and writes it")
    _, usual = site_of(load_recipe(SMALL))
    port = options.port or usual
    site = options.folder.with_name(f"{options.folder.name}-site")
    if not (options.folder / "recipe.yaml").exists():
        print(f"Rendering {options.scenes:,} scenes into {site} ...", flush=True)
        build_site(site, options.scenes, port)
        options.folder.mkdir(parents=True, exist_ok=True)
        for pairs in site.glob("pairs-*.parquet"):
            shutil.copy(pairs, options.folder)
        text = SMALL.read_text().replace("../work/site-small/", "")
        recipe = text.replace("workspace: ../work/small\n", where.read_text())
        recipe = recipe.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
        (options.folder / "recipe.yaml").write_text(recipe)
    with serve(site, port), suppress(KeyboardInterrupt):
        print(f"{options.folder}/recipe.yaml is ready; serving its images until interrupted", flush=True)
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
