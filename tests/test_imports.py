"""Who may import whom (docs/architecture.md), read off the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rasterloom

PACKAGE = Path(rasterloom.__file__).parent
ROOMS = {"sources", "filtering", "tokenize", "train", "report"}
GROUND = {
    *("versions", "storage", "s3", "schema", "recipe", "halving", "memory", "masking", "disk"),
    "private_folders",
}
GROUND |= {"local_ray"}
MAY_IMPORT = {
    **dict.fromkeys(ROOMS, GROUND),
    "versions": {"storage", "s3", "disk", "private_folders", "schema", "recipe", "masking"},
    "storage": {"s3", "disk", "recipe", "schema", "masking"},
    "s3": set(),
    "disk": {"s3"},
    "private_folders": {"s3"},
    "recipe": {"schema"},
    "schema": set(),
    "halving": set(),
    "memory": set(),
    "local_ray": {"private_folders"},
    "masking": set(),
    "pipelines": ROOMS | GROUND,
    "cli": {"cli_common", "cli_jobs", "cli_sample", "cli_tokens", "cli_train", "cli_versions", "pipelines"}
    | GROUND,
    "cli_common": {"masking", "pipelines"},
    "cli_jobs": {"cli_common", "pipelines"} | GROUND,
    "cli_sample": {"cli_common", "pipelines"} | GROUND,
    "cli_train": {"cli_common", "pipelines"} | GROUND,
    "cli_tokens": {"cli_common", "pipelines"} | GROUND,
    "cli_gc": {"cli_common", "pipelines"} | GROUND,
    "cli_takedown": {"cli_common", "pipelines"} | GROUND,
    "cli_versions": {"cli_common", "cli_gc", "cli_takedown", "pipelines"} | GROUND,
    "__main__": {"cli", "pipelines"},
    "__init__": set(),
}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imported(path):
    """Every dotted name that a module imports, wherever in it."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module
            if node.module == "rasterloom":
                yield from (f"rasterloom.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_only_what_its_place_allows(path):
    place = path.parts[0].removesuffix(".py")
    for name in imported(path):
        top, *rest = name.split(".")
        if top == "rasterloom" and rest and rest[0] != "__version__":
            assert rest[0] in MAY_IMPORT[place] | {place}, f"{path} imports {name}"
        if top == "ray":
            allowed = place in ("pipelines", "local_ray") or path == Path("train/ray_trainer.py")
            assert allowed, f"{path} imports ray"
        if top == "torch":
            allowed = path.parts[:2] == ("tokenize", "codecs") or place in ("train", "filtering")
            assert allowed and path != Path("train/data/batching.py"), f"{path} imports torch"
        assert top != "tests"


def test_help_and_plan_do_not_wait_for_torch_or_ray():
    code = (
        "import sys, rasterloom.cli.app, rasterloom.pipelines.run; print({'torch', 'ray'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


def test_no_top_level_module_hides_the_standard_library():
    assert not (PACKAGE / "tokenize.py").exists()
    assert not (Path(__file__).parent / "tokenize" / "__init__.py").exists()
    import tokenize

    assert "rasterloom" not in tokenize.__file__
