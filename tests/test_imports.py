"""Who may import whom (docs/architecture.md), read off the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rasterloom

PACKAGE = Path(rasterloom.__file__).parent
# Rooms from top to bottom: a room imports lower ones, and no sibling. "*" is every room not named.
HOUSE = [
    {"__main__", "data"},
    {"api"},
    {"cli"},
    {"serve"},
    {"pipelines"},
    {"report"},
    {"captions"},
    {"sources", "filtering", "tokenize", "train", "versions"},
    {"storage", "recipe"},
    {"schema"},
    {"utils"},
    {"errors"},
    {"__init__"},
]
INSIDE = {
    "cli": [{"entry"}, {"app"}, {"*"}, {"options", "help"}],
    "serve": [
        {"server"},
        {"app"},
        {"overview", "guard"},
        {"shelf", "rule_counts"},
        {"filters"},
        {"index"},
        {"stored_images"},
    ],
    "pipelines": [
        {"models", "import_export"},
        {"inspection", "cluster", "run"},
        {"workflow"},
        {"training"},
        {"execution"},
        {"maintenance"},
        {"corpus"},
        {"progress"},
        {"workspace"},
        {"step"},
    ],
    "train": [
        {"ray_trainer"},
        {"ray_worker", "ray_backend"},
        {"control_actor"},
        {"trainer"},
        {"checkpoint"},
        {"optim", "validate"},
        {"monitoring"},
        {"estimate"},
        {"sampling"},
        {"model"},
        {"data"},
        {"job"},
        {"deepspeed_files"},
        {"universal"},
        {
            "deepspeed_config",
            "deepspeed_compat",
            "transformers_compat",
            "distributed",
            "devices",
            "loopback_group",
            "stop_signals",
        },
    ],
    "sources": [
        {"fetch"},
        {"pairs", "guess"},
        {"pair_parts"},
        {"pair_rows"},
        {"first_records"},
        {"readers", "images"},
        {"lists"},
        {"files", "locator", "repeated_keys", "host_order"},
        {"local_paths", "remote"},
        {"failure"},
    ],
    "captions": [
        {"caption_shard"},
        {"checks", "prompt_values", "local_model", "endpoint_pool"},
        {"endpoint"},
        {"spending"},
        {"answers"},
    ],
    "filtering": [
        {"selection"},
        {"possible_duplicates"},
        {"rule_verdicts", "duplicates", "caption_rule"},
        {"rule", "semantic_duplicates", "disk_columns"},
        {"judges"},
        {"scorers"},
        {"scenes", "options"},
    ],
    "tokenize": [
        {"lumina_import"},
        {"tokenize_shard", "sequence_parser"},
        {"*"},
        {"codecs"},
        {"profiles", "buckets", "prompt_templates"},
        {"codec_plugins"},
    ],
}
FREE = {"tokenize": {"*"}}  # rooms of a layer that may import each other
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imported(path):
    """Every module that a module imports, wherever in it."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                place = PACKAGE.parent / node.module.replace(".", "/") / alias.name
                is_module = place.is_dir() or place.with_suffix(".py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def layer(layers, room):
    """The layer of a room and whether it is one of those not named."""
    for number, rooms in enumerate(layers):
        if room in rooms:
            return number
    return next(number for number, rooms in enumerate(layers) if "*" in rooms)


def may_import(layers, room, other, free=frozenset()):
    here, there = layer(layers, room), layer(layers, other)
    return room == other or here < there or (here == there and bool(layers[here] & free))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_only_what_its_place_allows(path):
    place = [part.removesuffix(".py") for part in path.parts]
    for name in imported(path):
        top, *rest = name.split(".")
        if top == "rasterloom" and rest and rest[0] != "__version__" and place != ["__init__"]:
            assert may_import(HOUSE, place[0], rest[0]), f"{path} imports {name}"
            if rest[0] == place[0] in INSIDE and len(rest) > 1 and place[1:] != ["__init__"]:
                inside = may_import(INSIDE[place[0]], place[1], rest[1], FREE.get(place[0], frozenset()))
                assert inside, f"{path} imports {name}"
        if top == "ray":
            allowed = {Path(f"train/{name}.py") for name in ("ray_trainer", "ray_worker", "ray_backend")}
            allowed |= {
                Path("train/control_actor.py"),
                Path("utils/local_ray.py"),
                Path("utils/ray_compat.py"),
            }
            assert place[0] == "pipelines" or path in allowed, f"{path} imports ray"
        if top == "torch":
            allowed = place[:2] == ["tokenize", "codecs"] or place[0] in (
                "train",
                "filtering",
                "captions",
                "data",
            )
            assert allowed and path != Path("train/data/batching.py"), f"{path} imports torch"
        assert top != "tests"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=str)
def test_a_package_is_introduced_and_holds_no_code(path):
    body = ast.parse((PACKAGE / path).read_text(encoding="utf-8")).body
    assert isinstance(body[0], ast.Expr)
    if path != Path("__init__.py"):
        assert len(body) == 1, f"{path} holds more than a docstring"


def test_the_package_is_imported_without_its_parts():
    code = "import sys, rasterloom; print([name for name in sys.modules if name.startswith('rasterloom.')])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("rasterloom.cli.app, rasterloom.pipelines.run", {"torch", "ray"}),
        # Each worker of a shard imports these, and reads files that its driver names.
        (
            "rasterloom.pipelines.workspace.staging, rasterloom.pipelines.execution.shard_pool",
            {"torch", "boto3", "requests", "sqlalchemy"},
        ),
    ],
    ids=["help and plan", "worker"],
)
def test_what_starts_often_does_not_wait_for_heavy_libraries(modules, heavy):
    code = f"import sys, {modules}; print({heavy} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "set()\n"


def test_no_top_level_module_hides_the_standard_library():
    assert not (PACKAGE / "tokenize.py").exists()
    assert not (Path(__file__).parent / "tokenize" / "__init__.py").exists()
    import tokenize

    assert "rasterloom" not in tokenize.__file__
