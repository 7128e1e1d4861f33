"""Sampling weights of sources reach the index that training plans from."""

import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rasterloom.pipelines.corpus.pair_weights import PairWeights, is_weighted, read_weights
from rasterloom.pipelines.training.pinned_tokens import pinned_step
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.storage.parquet_io import DataFile
from rasterloom.storage.store import Store
from rasterloom.versions.refs import tag

RECIPE = """
corpus: {corpus}
workspace: work
sources:
  - {{path: list.csv, image: file, caption: text, weight: {weight}}}
  - {{path: more.csv, image: file, caption: text}}
tokenize: {{targets: [64], text_vocab: 300}}
run: {{cpus: 1}}
"""
TRAIN = """
train:
  init: tiny
  stages: [{target: 64, steps: 2, batch_tokens: 400, corpus: weighed@v1}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight images with weights 1, 2, 3 and none, and four of a source without."""
    folder = tmp_path_factory.mktemp("weighed")
    lines = [f"{n}.png,image {n},{'' if n == 7 else n % 3 + 1}" for n in range(12)]
    (folder / "list.csv").write_text("\n".join(["file,text,often", *lines[:8]]))
    (folder / "more.csv").write_text("\n".join(["file,text,often", *lines[8:]]))
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def index_of(folder, rasterloom, corpus, weight):
    """The index of a run up to it, and the workflow."""
    file = folder / f"{corpus}.yaml"
    file.write_text(RECIPE.format(corpus=corpus, weight=weight))
    code, printed, error = rasterloom("run", file, "--until", "lengths")
    assert code == 0, printed + error
    workflow = Workflow(load_recipe(file))
    (step,) = (p.step for p in workflow.plan("lengths") if p.step.name == "lengths/64")
    index = workflow.corpus.layout.lengths(step.name, step.fingerprint)
    return pq.read_table(workflow.corpus.store.path(index)), workflow


def test_the_index_and_that_of_a_tag_have_the_weights(folder, rasterloom, warm_ray):
    index, workflow = index_of(folder, rasterloom, "weighed", "{column: often}")
    pairs = workflow.corpus.read("pairs").to_pylist()
    expected = {row["key"]: 1.0 if row["weight"] is None else row["weight"] for row in pairs}
    assert dict(zip(index["key"].to_pylist(), index["weight"].to_pylist(), strict=True)) == expected
    assert sorted(expected.values()) == [1] * 8 + [2] * 2 + [3] * 2
    tag(workflow.corpus, "v1")
    file = folder / "pinned.yaml"
    file.write_text(RECIPE.format(corpus="other", weight="1") + TRAIN)
    recipe = load_recipe(file)
    assert pinned_step(recipe, recipe.train.stages[0].parts[0], "train").config.weighted
    assert len(read_weights(workflow.corpus).keys) == 4


def test_without_weights_the_index_is_as_before(folder, rasterloom, warm_ray):
    index, workflow = index_of(folder, rasterloom, "plain", "1.0")
    assert "weight" not in index.column_names
    assert not is_weighted(workflow.corpus)
    (step,) = (p.step for p in workflow.plan("lengths") if p.step.name == "lengths/64")
    assert step.config.model_dump() == {"target": 64}


def test_what_is_no_weight_in_an_imported_file_counts_as_one(tmp_path):
    given = [0.5, 0.0, -2.0, math.nan, math.inf, None, 1.0, 3.0]
    keys = [f"{number:032x}" for number in range(len(given))]
    table = pa.table({"key": [key[::-1] for key in keys], "weight": pa.array(given, pa.float64())})
    store = Store(str(tmp_path))
    store.write_parquet("pairs.parquet", table)
    corpus = SimpleNamespace(store=store, files=lambda name: [DataFile(f"{name}.parquet", len(given))])
    assert sorted(read_weights(corpus).weights) == [0.5, 3.0]


def test_keys_without_a_weight_have_one():
    weights = PairWeights(np.array([3, 9], np.uint64), np.array([0.5, 4.0]))
    keys = pa.chunked_array([[f"{9:016x}", "no digest", f"{4:016x}"], [f"{3:016x}"]])
    assert weights.of(keys).tolist() == [4.0, 1.0, 1.0, 0.5]
