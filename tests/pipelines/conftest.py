import contextlib
import io
import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rasterloom.cli import app, options
from rasterloom.recipe.loader import load_recipe
from rasterloom.versions.corpus import TABLES, Corpus
from rasterloom.versions.refs import tag

SCENES = 24
RECIPE = """
corpus: little
workspace: {workspace}
sources:
  - {{path: {site}/pairs-photos.parquet, caption: text}}
  - {{path: {site}/pairs-scenes.parquet, caption: text}}
  - {{path: {site}/pairs-troubles.parquet, caption: text}}
fetch: {{max_side: 256, deadline_s: 3, retries: 2, shard_rows: 12, allow_hosts: ["127.0.0.1:{port}"]}}
score: [flatness]
keep: {keep}
tokenize: {{targets: {targets}, text_vocab: 300}}
run: {{cpus: 2, in_flight: 2}}
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory, quickstart, free_port):
    """The quickstart's site with few scenes, served while the tests run; gives folder and port."""
    folder, port = tmp_path_factory.mktemp("site"), free_port()
    quickstart("website").build_site(folder, SCENES, port)
    with quickstart("server").serve(folder, port):
        yield folder, port


@dataclass
class Workshop:
    """A recipe on the little site, and ways to run it as a user would."""

    recipe_file: Path
    site: tuple[Path, int]
    apart: bool = False  # runs are processes with a Ray of their own, which sees today's environment

    def write(self, keep="min_side >= 64", targets="[64]", **changes):
        folder, port = self.site
        text = RECIPE.format(
            workspace=self.recipe_file.parent / "work", site=folder, port=port, keep=keep, targets=targets
        )
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        self.recipe_file.write_text(text)
        return self

    def on_s3(self, server):
        """Write the recipe with a new corpus on an S3 server, in its REST catalog."""
        name = f"c{uuid.uuid4().hex}"
        place = f"workspace: s3://lake/{name}\ncatalog: {json.dumps(server.catalog)}"
        local = f"workspace: {self.recipe_file.parent / 'work'}"
        self.apart = True
        return self.write(**{local: place, "corpus: little": f"corpus: {name}"})

    def anew(self):
        """Write the recipe with a new corpus."""
        return self.write(**{"corpus: little": f"corpus: c{uuid.uuid4().hex}"})

    @property
    def recipe(self):
        return load_recipe(self.recipe_file)

    @property
    def corpus(self):
        return Corpus.of(self.recipe)

    def start(self, *arguments):
        """Start ``rasterloom run`` and return the process; its words can be read from stdout."""
        return subprocess.Popen(
            [sys.executable, "-m", "rasterloom", "run", str(self.recipe_file), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
        )

    def run(self, *arguments):
        """Run to the end, which must be a good one, and return what was printed.

        In this process and on its Ray, whose workers are warm, unless the workshop is ``apart``.
        """
        if self.apart:
            process = self.start(*arguments)
            printed, _ = process.communicate(timeout=300)
            assert process.returncode == 0, printed
            return printed
        code, printed = run_here("run", self.recipe_file, *arguments)
        assert code == 0, printed
        return printed

    def rows(self, table):
        """All rows of a table, in its files' order, without what may differ between two good runs."""
        files = self.corpus.files(table)
        names = [
            self.corpus.store.path(f.name) for f in sorted(files, key=lambda f: f.name.rsplit("/", 1)[1])
        ]
        rows = []
        for name in names:
            table_of_file = pq.read_table(name, filesystem=self.corpus.store.filesystem)
            rows += table_of_file.drop_columns(["attempts"] if table == "images" else []).to_pylist()
        return rows

    def tables(self, target=64):
        found = {table: self.rows(table) for table in TABLES}
        return {**found, "tokens": [row for row in found["tokens"] if row["target"] == target]}


def run_here(*arguments):
    """Run the command line in this process; gives the exit code and what was printed."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rasterloom", *map(str, arguments)])
        for console in (options.out, options.err):
            patch.setattr(console, "_width", 200)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = app.run()
    return code, printed.getvalue()


@pytest.fixture(scope="session")
def workshop_at(site, warm_ray):
    """A function that gives a workshop whose recipe is a certain file."""
    return lambda recipe_file: Workshop(recipe_file, site)


@pytest.fixture
def workshop(tmp_path, site, warm_ray):
    return Workshop(tmp_path / "recipe.yaml", site).write()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, site, warm_ray):
    """A workshop whose tokens were made in one go."""
    shop = Workshop(tmp_path_factory.mktemp("undisturbed") / "recipe.yaml", site).write()
    shop.printed = shop.run("--until", "tokens")
    return shop


@pytest.fixture(scope="session")
def two_versions(tmp_path_factory, site, warm_ray):
    """A workshop whose rule was made stricter after the tag v1; ``before`` has the tables as they were."""
    shop = Workshop(tmp_path_factory.mktemp("two") / "recipe.yaml", site).write()
    shop.run("--until", "tokens")
    tag(shop.corpus, "v1")
    shop.before = shop.tables()
    shop.write(keep="min_side >= 100").run("--until", "tokens")
    return shop
