"""Draws docs/images/live.svg: the live view of a real run, as it is while a step is half done.

    python scripts/live_picture.py RECIPE --step images --at 0.5 --out docs/images/live.svg

Runs the recipe (up to the step) in its workspace, so that must not be done yet, and serves nothing: for the
quickstart's recipes start `examples/quickstart/server.py` first.
"""

import argparse
import sys
import threading
import time
from io import StringIO
from pathlib import Path

from rich.console import Console

from rasterloom.pipelines.progress.live_view import frame
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.run import run
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe

EVERY_S = 0.2


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("recipe", type=Path)
    arguments.add_argument("--step", default="images", help="the step to be shown (default: %(default)s)")
    arguments.add_argument("--until", help="the last step of the run; the one that is shown when not given")
    arguments.add_argument("--at", type=float, default=0.5, help="share of it that is done")
    arguments.add_argument("--width", type=int, default=100, help="columns")
    arguments.add_argument("--out", type=Path, default=Path("docs/images/live.svg"))
    options = arguments.parse_args()
    progress = Progress(Console(quiet=True))
    over, drawn = threading.Event(), threading.Event()
    console = Console(file=StringIO(), record=True, force_terminal=True, width=options.width, height=30)

    def look() -> None:
        while not over.wait(EVERY_S):
            step = progress.run.running
            if step and step.name == options.step and step.total and step.done / step.total >= options.at:
                console.print(frame(progress.run, console, time.monotonic()))
                drawn.set()
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        run(Workflow(load_recipe(options.recipe)), options.until or options.step, progress)
    finally:
        over.set()
        watcher.join()
    if not drawn.is_set():
        print(f"{options.step} did not run, or came to its end too fast to be seen", file=sys.stderr)
        return 1
    console.save_svg(str(options.out), title=f"rasterloom run {options.recipe.name}")
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
