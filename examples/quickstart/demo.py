"""`make demo`: renders the quickstart's images, serves them locally, and runs the recipe."""

import argparse
import errno
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from scenes import CENTRED, VARIED
from server import serve
from website import build_site

from rasterloom.cli.options import result_lines
from rasterloom.errors import INTERRUPTED, STOPPED_TEXT, RasterloomError
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.run import result_files, run
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.recipe import Recipe

HERE = Path(__file__).resolve().parent


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--recipe", type=Path, default=HERE.parent / "quickstart.yaml")
    arguments.add_argument("--scenes", type=int, default=4000, help="scenes to draw (default: %(default)s)")
    arguments.add_argument(
        "--varied", action="store_true", help="scenes lie anywhere in their frames, not in the middle"
    )
    options = arguments.parse_args()
    console = Console(soft_wrap=True)
    recipe = load_recipe(options.recipe)
    folder, port = site_of(recipe)
    if not Path(str(recipe.sources[-1].path)).exists():
        console.print(f"Rendering {options.scenes:,} scenes into {folder} ...")
        build_site(folder, options.scenes, port, VARIED if options.varied else CENTRED)
    workflow = Workflow(recipe)
    fetches = any(p.runs and p.step.name == "images" for p in workflow.plan())
    with serve(folder, port) if fetches else nullcontext():
        planned = run(workflow, None, Progress(console))
    if not any(p.runs for p in planned):
        console.print("All steps were done before: nothing ran.")
    console.print("\n".join(result_lines(result_files(workflow, "report"))), highlight=False)
    console.print(
        f'Try: rasterloom sample {os.path.relpath(options.recipe)} --prompt "two green stars"',
        highlight=False,
    )
    return 0


def site_of(recipe: Recipe) -> tuple[Path, int]:
    """The site's folder and port, from the recipe."""
    return Path(str(recipe.sources[0].path)).parent, int(recipe.fetch.allow_hosts[0].rsplit(":", 1)[1])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(STOPPED_TEXT, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except RasterloomError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        sys.exit(f"the web site's port is taken, perhaps by another demo: {error.strerror}")
