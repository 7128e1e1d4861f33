import io

import pyarrow as pa
import pytest

from rasterloom import schema
from rasterloom.filtering.scorers.registry import make_scorers, score_shard
from rasterloom.recipe.filtering import Score


def test_captions_of_scenes_are_scored_and_others_are_null(quickstart):
    scene = quickstart("scenes").draw_scene(0, (128, 128))
    buffer = io.BytesIO()
    scene.image.save(buffer, "PNG")
    other = scene.caption.replace(scene.shapes[0], "star" if scene.shapes[0] != "star" else "ring")
    captions = [scene.caption, other, "a cat", None]
    rows = {name: [None] * 4 for name in schema.IMAGES.names}
    rows |= {"key": list("abcd"), "shard": [0] * 4, "image": [buffer.getvalue()] * 4, "caption": captions}
    table = pa.table({field.name: pa.array(rows[field.name], field.type) for field in schema.IMAGES})
    scores = score_shard(table, make_scorers([Score(name="scene")]))["scene"].to_pylist()
    assert scores[0] == 1 and 0 < scores[1] < 1 and scores[2:] == [None, None]


def test_it_has_no_options():
    with pytest.raises(ValueError, match="the score scene has no option 'size'"):
        make_scorers([Score(name="scene", options={"size": 3})])
