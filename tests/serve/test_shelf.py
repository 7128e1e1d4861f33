"""A later version takes the place of the one that is served."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_workspace import Item, Workspace

from rasterloom.errors import RecipeError, UserError, VersionError
from rasterloom.recipe.recipe import Recipe
from rasterloom.serve import shelf as shelf_module
from rasterloom.serve.index import Index
from rasterloom.serve.server import serving
from rasterloom.serve.shelf import Shelf


def kept(index: Index) -> int:
    return next(option.rows for option in index.options["reason"] if option.value == "kept")


def recipe_of(workspace: Workspace, corpus: str = "scenes") -> Recipe:
    sources = ({"path": "pairs.parquet"},)
    return Recipe.model_validate({"corpus": corpus, "workspace": str(workspace.folder), "sources": sources})


def test_a_later_version_is_served_and_the_earlier_one_while_it_is_read(
    tmp_path: Path, items: list[Item], monkeypatch
) -> None:
    monkeypatch.setattr(shelf_module, "FRESH_S", 0)
    made = Workspace(tmp_path)
    made.fill(items, targets=())
    stricter = [replace(i, reason="rule: quality > 3") if i.quality == 3 else i for i in items]
    with Shelf(recipe_of(made)) as shelf, shelf.index() as before:
        count = kept(before)
        with shelf.index() as same:
            assert same is before
            made.fill(stricter, targets=())
            with shelf.index() as after:
                assert kept(after) < count
        assert kept(before) == count and before.find(items[0].key), "one reader is left"
    with pytest.raises(RecipeError):  # closed, once nobody reads it
        before.find(items[0].key)


def test_nothing_stays_behind(tmp_path: Path, items: list[Item], monkeypatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    made = Workspace(tmp_path / "work")
    made.fill(items[:5], targets=())
    with Shelf(recipe_of(made)):
        assert list(folder.iterdir())
    assert not list(folder.iterdir())


def test_what_cannot_be_served_is_said(tmp_path: Path, items: list[Item]) -> None:
    made = Workspace(tmp_path)
    with pytest.raises(RecipeError, match="there are no images yet"), Shelf(recipe_of(made)):
        pass
    made.fill(items[:5], targets=())
    with (
        pytest.raises(VersionError, match="no branch, tag or snapshot v9"),
        Shelf(recipe_of(made, "scenes@v9")),
    ):
        pass
    for host, port in (("no.such.host.invalid", 0), ("192.0.2.1", 0)):
        with pytest.raises(UserError, match="cannot be listened on"), serving(recipe_of(made), host, port):
            pass
    with pytest.raises(UserError, match="neither a name nor an address"), serving(recipe_of(made), "a\x1b b"):
        pass
