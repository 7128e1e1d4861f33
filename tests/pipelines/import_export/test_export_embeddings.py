"""Scores by a CLIP whose embeddings are kept, and what is made of them."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from rasterloom.errors import RecipeError
from rasterloom.pipelines.import_export.export_embeddings import export


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, workshop_at, clip):
    """A workshop with scores by a tiny CLIP and what is kept without doubles of meaning."""
    shop = workshop_at(tmp_path_factory.mktemp("embedded") / "recipe.yaml")
    shop.write(**scored_by(clip))
    shop.run("--until", "selection")
    return shop


def scored_by(clip, semantic="null"):
    return {
        "[flatness]": f"[flatness, caption, {{clip: {{clip: {clip}, keep_embeddings: true}}}}]",
        "keep: min_side >= 64": f"keep: min_side >= 64\ndedup: {{semantic: {semantic}}}",
    }


def read(folder, kind):
    files = sorted((folder / kind).iterdir())
    if kind == "metadata":
        return [pq.read_table(file).to_pylist() for file in files]
    return [np.load(file) for file in files]


def test_kept_embeddings_in_the_layout_of_clip_retrieval(embedded, tmp_path):
    scores = {row["key"]: row for row in embedded.rows("scores")}
    kept = {row["key"] for row in embedded.rows("selection") if row["kept"]}
    folder = tmp_path / "out"
    n = export(embedded.recipe, folder, rows_a_file=10)
    assert n == len({key for key in kept if scores[key]["clip_text_embedding"]}) > 20
    pictures, captions, metadata = (read(folder, kind) for kind in ("img_emb", "text_emb", "metadata"))
    assert [len(part) for part in pictures] == [len(p) for p in captions] == [len(p) for p in metadata]
    assert [len(part) for part in pictures[:-1]] == [10] * (len(pictures) - 1)
    rows = [row for part in metadata for row in part]
    assert len({row["key"] for row in rows}) == n and {row["key"] for row in rows} <= kept
    for row, picture, caption in zip(rows, np.concatenate(pictures), np.concatenate(captions), strict=True):
        mine = scores[row["key"]]
        np.testing.assert_allclose(picture, mine["clip_embedding"], atol=1e-3)
        np.testing.assert_allclose(caption, mine["clip_text_embedding"], atol=1e-3)
        assert row["clip"] == mine["clip"] == pytest.approx(float(picture @ caption), abs=5e-3)
        assert row["url"].startswith("http") and row["caption_words"] > 0
    more = export(embedded.recipe, tmp_path / "all", everything=True)
    assert more == sum(row["clip_text_embedding"] is not None for row in scores.values()) > n


def test_what_cannot_be_exported(embedded, undisturbed, workshop, tmp_path):
    with pytest.raises(RecipeError, match=r"no score keeps embeddings; for example"):
        export(undisturbed.recipe, tmp_path / "out")
    with pytest.raises(RecipeError, match="the step images is not done"):
        export(workshop.recipe, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(RecipeError, match="is not empty"):
        export(embedded.recipe, tmp_path / "full")


def test_semantic_duplicates_in_a_corpus(embedded, clip):
    """The random CLIP finds all pictures much alike; what is dropped must be as near as was asked for."""
    before = {row["key"]: row["kept"] for row in embedded.rows("selection")}
    vectors = {row["key"]: row["clip_embedding"] for row in embedded.rows("scores")}
    embedded.write(**scored_by(clip, "0.98")).run("--until", "selection")
    rows = embedded.rows("selection")
    embedded.write(**scored_by(clip))
    dropped = [row for row in rows if row["reason"] == "semantic duplicate"]
    assert dropped and all(before[row["key"]] for row in dropped)
    for row in dropped:
        assert np.dot(vectors[row["key"]], vectors[row["duplicate_of"]]) > 0.979
    kept = [row["key"] for row in rows if row["kept"]]
    cosine = np.array([vectors[key] for key in kept]) @ np.array([vectors[key] for key in kept]).T
    assert (cosine - np.eye(len(kept))).max() < 0.981


def test_tokens_do_not_read_the_embeddings(embedded):
    embedded.run("--until", "tokens")
    assert all(row["clip"] is not None for row in embedded.rows("tokens") if row["caption"])


def test_embeddings_of_a_tag_whatever_the_recipe_says_now(embedded, rasterloom, tmp_path):
    from rasterloom.versions.refs import tag

    tag(embedded.corpus, "v1")
    text = embedded.recipe_file.read_text().replace("corpus: little", "corpus: little@v1")
    (tmp_path / "recipe.yaml").write_text(text.replace("keep: min_side >= 64", "keep: min_side >= 100"))
    code, printed, error = rasterloom("embeddings", tmp_path / "recipe.yaml", tmp_path / "out")
    assert code == 0, error
    assert printed.startswith(f"{export(embedded.recipe, tmp_path / 'other'):,} embeddings")
