"""Samples are drawn from what a driver hands over, on any machine."""

import pytest

from rasterloom.pipelines.training import sample_work
from rasterloom.pipelines.training.sample_work import Drawing, draw
from rasterloom.recipe.sampling import SamplingConfig
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import bucket_name
from rasterloom.storage.store import Store
from rasterloom.tokenize.text_tokenizer import text_of, train_text
from rasterloom.train.model.packed_lm import build_model, save_model

SIZES = ((64, 64), (96, 32))
TEXT = train_text(["a red circle", "a blue square"], 300)
TOKENIZE = Tokenize(codec="mini", targets=(64,), text_vocab=300)


def drawing(folder, **sample):
    return Drawing(
        store=Store(str(folder)),
        model="model",
        text=TEXT,
        sample=SamplingConfig(**sample),
        tokenize=TOKENIZE,
        sizes=SIZES,
        sequences={bucket_name(*size): [] for size in SIZES},
        threads=1,
        gpu=False,
    )


def test_where_nothing_is_asked_for_no_model_is_loaded(tmp_path):
    found = draw(drawing(tmp_path))  # there is none
    assert found.images == [] and found.of_suite == [] and found.real == {}
    with pytest.raises(ValueError, match="no checkpoint"):
        draw(drawing(tmp_path, prompts=("a red circle",)))


def test_every_prompt_has_an_image_of_every_size(tmp_path, monkeypatch):
    _, profile = text_of(TOKENIZE, TEXT)
    save_model(build_model("tiny", profile), profile, tmp_path / "model")
    monkeypatch.setattr(sample_work, "BATCH", 3)
    found = draw(drawing(tmp_path, prompts=("a red circle", "a blue square")))
    assert [image.size for image in found.images] == [*SIZES, *SIZES]
