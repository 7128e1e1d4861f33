"""`make corpus-openclipart`: fetches, filters and tokenises 8,118 real pairs.

Downloads two Debian packages, serves their images from a local server, and runs the recipe up to the index of
its tokens at 256 and 512. ``--until selection`` leaves out the tokens, which take most of the time. See
docs/versions.md for a run on S3.
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from clipart import fetch_packages, write_pairs
from rich.console import Console

from rasterloom.cli.options import result_lines
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.run import result_files, run
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "quickstart"))

from server import serve_files  # noqa: E402


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--recipe", type=Path, default=HERE.parent / "openclipart.yaml")
    arguments.add_argument("--until", default="lengths", help="last step (default: %(default)s)")
    options = arguments.parse_args()
    console = Console(soft_wrap=True)
    recipe = load_recipe(options.recipe)
    pairs = Path(recipe.sources[0].path)
    clipart = fetch_packages(pairs.parent)
    host = recipe.fetch.allow_hosts[0]
    if not pairs.exists():
        console.print(f"{write_pairs(clipart, f'http://{host}', pairs):,} pairs in {pairs}")
    workflow = Workflow(recipe)
    fetches = any(p.runs and p.step.name == "images" for p in workflow.plan())
    with serve_files(clipart / "png", int(host.rsplit(":", 1)[1])) if fetches else nullcontext():
        run(workflow, options.until, Progress(console))
    console.print("\n".join(result_lines(result_files(workflow, options.until))), highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
