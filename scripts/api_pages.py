"""Writes a page for each module of the package, from its docstrings: python scripts/api_pages.py FOLDER"""

import argparse
import warnings
from pathlib import Path

import pdoc
import pdoc.render


def write_pages(folder: Path) -> None:
    """Write HTML pages and their index.

    Args:
        folder: where to; it is made if it is not there.
    """
    pdoc.render.configure(docformat="google", search=True, show_source=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of annotations that only a type checker resolves
        pdoc.pdoc("rasterloom", output_directory=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("folder", type=Path)
    write_pages(parser.parse_args().folder)


if __name__ == "__main__":
    main()
