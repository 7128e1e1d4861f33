"""What a version keeps of a group of duplicates stays what is kept of it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

RECIPE = """
corpus: growing
workspace: {folder}/work
sources: [{{path: {folder}/pairs.parquet}}]
fetch: {{allow_hosts: ["127.0.0.1:{port}"], robots: false}}
score: []
keep: min_side >= {side}
dedup: {{memory: {memory}}}
run: {{cpus: 1}}
"""


@pytest.fixture
def growing(tmp_path, quickstart, workshop_at):
    """A workshop of pictures of three sizes, and a function that says which pairs there are."""
    import skimage

    (tmp_path / "files").mkdir()
    photograph = Image.open(skimage.__path__[0] + "/data/astronaut.png").convert("RGB")
    for side in (128, 256, 400):
        photograph.resize((side, side)).save(tmp_path / "files" / f"{side}.png")
    shop = workshop_at(tmp_path / "recipe.yaml")
    with quickstart("server").serve(tmp_path) as port:

        def of(*sides, memory="true", side=1):
            urls = [f"http://127.0.0.1:{port}/files/{n}.png" for n in sides]
            pq.write_table(pa.table({"url": urls, "caption": ["it"] * len(urls)}), tmp_path / "pairs.parquet")
            text = RECIPE.format(folder=tmp_path, port=port, memory=memory, side=side)
            shop.recipe_file.write_text(text)
            shop.run("--until", "selection")
            names = {row["key"]: row["url"].rsplit("/")[-1] for row in shop.rows("pairs")}
            return {names[row["key"]]: row["reason"] for row in shop.rows("selection")}

        yield shop, of


def test_the_kept_one_of_a_group_stays_while_rows_come(growing):
    shop, of = growing
    assert of(256) == {"256.png": "kept"}
    double = "near duplicate"
    assert of(256, 400, 128) == {"256.png": "kept", "400.png": double, "128.png": double}
    table = shop.corpus.table("selection")
    record = table.current_snapshot().summary.additional_properties
    before = table.snapshots()[0].snapshot_id
    assert f'"earlier": "{before}"' in record["rasterloom.parents"]
    # The rule comes first; and what chooses anew, or a group that is settled otherwise, takes the largest.
    assert of(256, 400, 128, side=300) == {
        "256.png": "rule: min_side >= 300",
        "400.png": "kept",
        "128.png": "rule: min_side >= 300",
    }
    assert of(256, 400, 128)["400.png"] == "near duplicate"  # as that version was
    assert of(128, 256, 400, memory="false") == {"256.png": double, "400.png": "kept", "128.png": double}
