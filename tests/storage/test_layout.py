"""Names of files of a workspace: each one is built in one module, and none has changed."""

import ast
import re
from pathlib import Path

import rasterloom
from rasterloom.storage import layout
from rasterloom.storage.layout import Layout

PACKAGE = Path(rasterloom.__file__).parent
# Folders of a corpus, as they stand inside a string that builds a name.
BUILT = re.compile(
    r"(^|/)(records|files|staging|training|retries|adopted|tables)/|/(takedowns|at-work|staging|records|settled\.json)$"
)
GENERAL = ("RESULT", "CARD")  # result.json and README.md, which other folders have as well
FILES = {
    value.decode() if isinstance(value, bytes) else value
    for name, value in vars(layout).items()
    if name.isupper() and str(value).count(".") == 1 and name not in GENERAL
}


def strings(path):
    """The strings of a module and the parts of its f-strings, docstrings apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str | bytes) and id(node) not in prose:
            yield node.lineno, value if isinstance(value, str) else value.decode("latin-1")


def test_no_other_module_builds_the_name_of_a_file_of_a_workspace():
    found = [
        f"{path.relative_to(PACKAGE)}:{line} {text!r}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != Path(layout.__file__)
        for line, text in strings(path)
        if " " not in text and (BUILT.search(text) or text.rpartition("/")[2] in FILES)
    ]
    assert not found, "\n".join(found)


def test_the_names_looked_for_are_the_constants_of_the_layout():
    assert {"evaluation.json", "lengths.parquet", "rasterloom.files", "catalog.db"} <= FILES


def test_names_are_those_of_every_workspace_so_far():
    of = Layout("art")
    assert of.record("train/1-64", "cafe") == "art/records/train/1-64/cafe.json"
    assert of.record("train/1-64", layout.LAST) == "art/records/train/1-64/last.json"
    assert of.files("report", "cafe") == "art/files/report/cafe"
    assert of.text("cafe") == "art/files/text/cafe/tokenizer.json"
    assert of.lengths("lengths/64", "cafe") == "art/files/lengths/64/cafe/lengths.parquet"
    assert of.training("train/1-64", "cafe") == "art/training/train/1-64/cafe"
    assert of.staging("codes/64", "cafe") == "art/staging/codes/64/cafe"
    assert of.takedown(7) == "art/takedowns/000007.json"
    assert of.settled == "art/settled.json"
    assert of.lease("beef") == "art/at-work/beef.json"
    assert of.retry("images", "cafe", 2) == "art/retries/images/cafe/000002.json"
    assert of.table("pairs") == "art/tables/pairs"
    assert of.adopted("pairs", "cafe", 3) == "art/adopted/pairs/cafe/000003.parquet"
    place = of.staging("images", "cafe")
    assert layout.staged_shard(place, "000000-dead") == f"{place}/shards/000000-dead.json"
    assert layout.staged_data(place, "000000-beef", 1) == f"{place}/data/000000-beef-00001.parquet"
    assert layout.staged_result(place) == f"{place}/result.json"


def test_a_staged_file_tells_its_step():
    of = Layout("art")
    place = of.staging("codes/64", "cafe")
    names = [place, layout.staged_shard(place, "0-d"), layout.staged_data(place, "0-b", 0)]
    assert [of.staged_step(name) for name in (*names, layout.staged_result(place))] == [
        ("codes/64", "cafe")
    ] * 4
    assert layout.staging_of(layout.staged_shard(place, "0-d")) == place
