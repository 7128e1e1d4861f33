"""The corpus of ``made_workspace``, and pages of it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from made_workspace import Item, Workspace, disc, made_items
from PIL import Image

from rasterloom.report.comparison_page import Operand, write_comparison
from rasterloom.report.diff_page import compare_rows
from rasterloom.report.queries import Tables
from rasterloom.report.report_page import build_report
from rasterloom.versions.diff import diff
from rasterloom.versions.refs import tag


@pytest.fixture(scope="session")
def some_items() -> list[Item]:
    return made_items()


@pytest.fixture(scope="session")
def drawn() -> Callable[[int, tuple[int, int]], Image.Image]:
    return disc


@pytest.fixture(scope="session")
def make_workspace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Workspace]:
    """A function that makes an empty workspace."""
    return lambda: Workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def workspace(make_workspace: Callable[[], Workspace], some_items: list[Item]) -> Workspace:
    """The corpus of :func:`made_items`, not to be changed."""
    made = make_workspace()
    made.fill(some_items)
    return made


@pytest.fixture(scope="session")
def tables(workspace: Workspace) -> Iterator[Tables]:
    """The tables of ``workspace``, open."""
    with workspace.tables() as found:
        yield found


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory, some_items, make_workspace, drawn) -> Path:
    """A page of all sections."""
    made = make_workspace()
    made.fill(some_items)
    stages = [made.train("1-64"), made.train("2-128", start=4.0)]
    samples = made.sample([(f"disc <{i // 2}>", drawn(i, (64, 64 + 32 * (i % 2)))) for i in range(4)])
    inputs = replace(made.inputs(stages, samples), recipe_text="corpus: scenes  # <recipe> & more")
    return build_report(inputs, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory, some_items, make_workspace, drawn) -> Path:
    """The page on a corpus at v1, and later with fewer kept and another run of training."""
    made = make_workspace()
    made.fill(some_items)
    sides, before = [], 0
    for name, items, lr, start in (("v1", some_items, 1e-3, 6.5), ("v2", None, 3e-3, 5.0)):
        if items is None:
            before = len(made.records)
            stricter = [replace(i, reason="rule: <quality>") if i.quality == 3 else i for i in some_items]
            made.fill(stricter)
        stage, folder = made.train("1-64", start=start)
        folder = folder.rename(folder.with_name(f"{name}-1-64"))
        made.records[-1] = replace(made.records[-1], config={"stage": {"lr": lr, "steps": 60}})
        if items is None:
            held = json.loads((folder / "heldout.json").read_text())
            held["end"]["all"]["loss"] = 2.439
            (folder / "heldout.json").write_text(json.dumps(held))
        samples = made.sample([("a <disc>", drawn(1, (64, 64))), (f"only {name}", drawn(2, (64, 64)))])
        samples = samples.rename(samples.with_name(f"samples-{name}"))
        tag(made.corpus, name)
        corpus = replace(made.corpus, ref=name)
        snapshots = {t: corpus.snapshot_id(t) for t in ("pairs", "images", "scores", "selection", "tokens")}
        sides.append(
            Operand(
                f"scenes@{name}", corpus, snapshots, tuple(made.records[before:]), ((stage, folder),), samples
            )
        )
    a, b = sides
    found = compare_rows(a.corpus, b.corpus, [diff(a.corpus, b.corpus, t) for t in ("selection", "tokens")])
    out = tmp_path_factory.mktemp("compared") / "deep" / "compare.html"
    write_comparison(a, b, found, out)
    return out
