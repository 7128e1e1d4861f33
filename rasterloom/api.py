"""Python API: run and plan a recipe, and read its corpus.

```python
import rasterloom

rasterloom.plan("recipe.yaml")
corpus = rasterloom.run("recipe.yaml", until="tokens")
corpus.table("images", ["key", "caption"])
corpus.sql("SELECT error, count(*) FROM images GROUP BY ALL")
corpus.sheet("caption ILIKE '%star%'")
```
"""

import html
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
from PIL import Image
from rich.console import Console

from rasterloom.cli.options import SafeConsole
from rasterloom.errors import RecipeError
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.run import run as run_workflow
from rasterloom.pipelines.workflow import Planned, Workflow
from rasterloom.recipe import loader
from rasterloom.recipe.recipe import Recipe
from rasterloom.report.contact_sheet import Row, contact_sheet
from rasterloom.storage.store import Store
from rasterloom.utils.redact import cut, safe
from rasterloom.utils.suggest import did_you_mean
from rasterloom.versions.corpus import MAIN, TABLES, Corpus
from rasterloom.versions.refs import check_ref, refs

AnyRecipe = str | os.PathLike[str] | Recipe | Mapping[str, Any]
THUMBNAIL = 160  # pixels of the longer side of an image in a sheet
LABEL = 40  # characters of a caption above one


@dataclass(frozen=True)
class PlannedStep:
    """A step of a recipe: whether it would run, and why."""

    name: str
    runs: bool
    reason: str
    fingerprint: str


class Plan(tuple[PlannedStep, ...]):
    """Steps of a recipe, in their order. A notebook shows them as a table."""

    def __repr__(self) -> str:
        width = max((len(step.name) for step in self), default=0)
        return "\n".join(f"{s.name:{width}}  {_to_do(s):4}  {safe(s.reason)}" for s in self)

    def _repr_html_(self) -> str:
        rows = ((s.name, _to_do(s), s.reason) for s in self)
        cells = "".join(
            f"<tr>{''.join(f'<td>{html.escape(safe(value))}</td>' for value in row)}</tr>" for row in rows
        )
        return f"<table><tr><th>step</th><th></th><th>why</th></tr>{cells}</table>"


def _to_do(step: PlannedStep) -> str:
    return "run" if step.runs else "skip"


def plan(recipe: AnyRecipe, *, until: str | None = None) -> Plan:
    """Return the steps of a recipe, and which of them would run.

    Nothing is changed.

    Args:
        recipe: a file, its content as a dict (paths are relative to the working directory), or a `Recipe`.
        until: the last step, by name or kind.

    Raises:
        RecipeError: the recipe is wrong, or has no such step.
    """
    return Plan(map(_planned, Workflow(_recipe(recipe)).plan(until)))


def run(recipe: AnyRecipe, *, until: str | None = None, retry: str = "", quiet: bool = False) -> "CorpusView":
    """Run the steps of a recipe that are not done yet.

    Return its corpus. It can be interrupted at any time: what is finished is kept, and the next call goes on
    from there.

    Args:
        recipe, until: as for `plan`.
        retry: classes of failure, as ``timeout,http_5xx``, whose images are fetched again first.
        quiet: print no progress.

    Raises:
        RecipeError: the recipe is wrong.
        StepFailed: a step could not be finished.
        StorageError: the workspace or its catalog cannot be used.
    """
    loaded = _recipe(recipe)
    console: Console = SafeConsole(quiet=quiet, force_jupyter=False)  # a line at a time, not a box a line
    run_workflow(Workflow(loaded), until, Progress(console), retry)
    return CorpusView(Corpus.of(loaded))


def open(place: AnyRecipe, *, corpus: str = "", at: str = MAIN) -> "CorpusView":
    """Open a corpus to read it, as ``rasterloom.open``.

    Args:
        place: a recipe as for `plan`, or the folder of a local workspace.
        corpus: name of the corpus, where a folder holds several.
        at: branch, tag or snapshot id.

    Raises:
        RecipeError: the recipe is wrong, or the folder holds no corpus, or several and none is named.
        VersionError: the corpus has no such branch, tag or snapshot.
    """
    is_folder = isinstance(place, str | os.PathLike) and Path(place).is_dir()
    view = CorpusView(_of_folder(Path(str(place)), corpus) if is_folder else Corpus.of(_recipe(place)))
    return view if at == MAIN else view.at(at)


@dataclass(frozen=True)
class CorpusView:
    """Tables of a corpus at one version: ``pairs``, ``images``, ``scores``, ``selection`` and ``tokens``."""

    corpus: Corpus

    @property
    def name(self) -> str:
        return self.corpus.name

    @property
    def version(self) -> str:
        """Branch, tag or snapshot id."""
        return self.corpus.ref

    def at(self, version: str) -> "CorpusView":
        """Return the corpus at another branch, tag or snapshot id.

        Raises:
            VersionError: there is none.
        """
        view = CorpusView(replace(self.corpus, ref=version))
        check_ref(view.corpus)
        return view

    def versions(self) -> list[str]:
        """Return its branches and tags."""
        return [ref.name for ref in refs(self.corpus)]

    def rows(self) -> dict[str, int]:
        """Return the number of rows of each table that there is."""
        counts = {name: sum(file.rows for file in self.corpus.files(name)) for name in TABLES}
        return {name: count for name, count in counts.items() if self.corpus.snapshot_id(name) is not None}

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        *,
        where: str = "",
        limit: int | None = None,
        at: str = "",
    ) -> pa.Table:
        """Read a table into memory. Polars and pandas take it: ``polars.from_arrow``, ``to_pandas()``.

        Args:
            where: filter of rows, such as ``"target == 512"`` or ``"status = 'failed'"``.
            limit: rows at most.
            at: branch, tag or snapshot id, in place of the corpus's.

        Raises:
            RecipeError: there is no such table.
            VersionError: there is no such version.
        """
        if at:
            return self.at(at).table(name, columns, where=where, limit=limit)
        self._check(name)
        return self.corpus.read(name, list(columns) if columns else None, where=where, limit=limit)

    def dataset(self, name: str) -> pads.Dataset:
        """Return a table as a pyarrow data set, read by batches.

        Raises:
            RecipeError: there is no such table.
        """
        self._check(name)
        return self.corpus.dataset([file.name for file in self.corpus.files(name)])

    def sql(self, query: str) -> pa.Table:
        """Answer a query of DuckDB's SQL over the tables, by their names.

        Raises:
            duckdb.Error: it cannot be answered.
        """
        with duckdb.connect(config={"enable_external_access": False}) as connection:
            for name in self.rows():
                connection.register(name, self.dataset(name))
            return connection.sql(query).to_arrow_table()

    def images(self, where: str = "TRUE", limit: int = 12) -> list[Image.Image]:
        """Decode stored images.

        Args:
            where: SQL over the columns of ``images``, as ``"width > 512"``.
        """
        return [image for _, image in self._images(where, limit)]

    def sheet(self, where: str = "TRUE", limit: int = 12, across: int = 4) -> Image.Image:
        """Draw a contact sheet of images with their captions."""
        found = self._images(where, limit)
        for _, image in found:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
        groups = [found[start : start + across] for start in range(0, len(found), across)]
        labels = [tuple(cut(caption or "", LABEL) for caption, _ in group) for group in groups]
        images = [tuple(image for _, image in group) for group in groups]
        return contact_sheet([Row(*row) for row in zip(labels, images, strict=True)])

    def _images(self, where: str, limit: int) -> list[tuple[str | None, Image.Image]]:
        query = f"SELECT caption, image FROM images WHERE image IS NOT NULL AND ({where}) LIMIT {int(limit)}"
        rows = self.sql(query).to_pylist()
        return [(row["caption"], Image.open(io.BytesIO(row["image"])).convert("RGB")) for row in rows]

    def _check(self, name: str) -> None:
        if name not in TABLES or self.corpus.snapshot_id(name) is None:
            there = ", ".join(self.rows()) or "none yet"
            raise RecipeError(f"{self.name}@{self.version} has no table {name}; it has {there}")

    def __repr__(self) -> str:
        rows = ", ".join(f"{name} {count:,}" for name, count in self.rows().items()) or "no tables yet"
        return f"{safe(self.name)}@{safe(self.version)}: {rows}"


def _recipe(recipe: AnyRecipe) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return loader.recipe_of(dict(recipe), Path.cwd())
    return loader.load_recipe(Path(recipe))


def _of_folder(folder: Path, name: str) -> Corpus:
    nameless = Corpus(name, Store(str(folder.resolve())))
    if not nameless.has_catalog:
        raise RecipeError(f"{folder} is no workspace: it holds no catalog")
    names = sorted(".".join(parts) for parts in nameless.catalog.list_namespaces())
    if name and name not in names:
        message = f"{folder} has no such corpus; {did_you_mean(name, names)}"
        raise RecipeError(message, field="corpus", value=name)
    if not name and len(names) != 1:
        known = f"the corpora {', '.join(names)}: name one" if names else "no corpus yet"
        raise RecipeError(f"{folder} holds {known}")
    return replace(nameless, name=name or names[0])


def _planned(planned: Planned) -> PlannedStep:
    return PlannedStep(planned.step.name, planned.runs, planned.status.reason, planned.step.fingerprint)
