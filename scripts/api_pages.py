"""Writes a page for each module of the package, from its docstrings: python scripts/api_pages.py FOLDER"""

import argparse
import importlib
import pkgutil
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import rasterloom


def modules() -> list[str]:
    """Modules of the package."""
    found = pkgutil.walk_packages(rasterloom.__path__, "rasterloom.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def without_their_extra() -> dict[str, str]:
    """Modules that need a library that is not installed, and its name."""
    missing = {}
    for name in modules():
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            library = error.name or ""
            if library.startswith("rasterloom"):
                raise
            missing[name] = library
    return missing


def write_pages(folder: Path) -> None:
    """Write HTML pages and their index.

    Args:
        folder: where to; it is made if it is not there.
    """
    pdoc.render.configure(docformat="google", search=True, show_source=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of annotations that only a type checker resolves
        missing = without_their_extra()
        pdoc.pdoc("rasterloom", *(f"!{module}" for module in missing), output_directory=folder)
    for module, library in missing.items():
        print(f"no page for {module}: {library} is not installed")
    if lost := without_page(folder) - set(missing):
        raise SystemExit(f"no page for {', '.join(sorted(lost))}")


def without_page(folder: Path) -> set[str]:
    """Modules of the package that have no page in a folder."""
    return {name for name in modules() if not (folder / f"{name.replace('.', '/')}.html").exists()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("folder", type=Path)
    write_pages(parser.parse_args().folder)


if __name__ == "__main__":
    main()
