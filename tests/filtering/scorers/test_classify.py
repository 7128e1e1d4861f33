"""Classifiers of transformers as scorers, tiny and with random weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rasterloom.filtering.scorers.base import Batch
from rasterloom.filtering.scorers.classify import ClassifyScorer, open_classifier
from rasterloom.filtering.scorers.registry import identity, make_scorers, score_columns, wants_gpu
from rasterloom.recipe.filtering import Score

LABELS = {0: "Clean", 1: "Watermark", 2: "Not Safe!"}


def images(n: int = 19) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (30 + i, 60 - i, 3), dtype=np.uint8) for i in range(n)]


@pytest.fixture(scope="module", params=["single", "multi_label_classification"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("classifier")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    kind = {} if request.param == "single" else {"problem_type": request.param}
    config = ViTConfig(image_size=32, patch_size=8, id2label=LABELS, initializer_range=0.5, **small, **kind)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_the_score_is_what_transformers_gives(model: Path) -> None:
    from transformers import ViTForImageClassification, ViTImageProcessorPil

    theirs = ViTForImageClassification.from_pretrained(model).eval()
    processor = ViTImageProcessorPil.from_pretrained(model)
    found = ClassifyScorer(str(model), "Watermark")(Batch(images(), [None] * 19))["watermark"]
    for image, score in zip(images(), found, strict=True):
        with torch.no_grad():
            pixels = processor([image], return_tensors="pt", input_data_format="channels_last")
            logits = theirs(**pixels).logits[0]
        by_itself = theirs.config.problem_type == "multi_label_classification"
        expected = logits.sigmoid() if by_itself else logits.softmax(0)
        assert score == pytest.approx(float(expected[1]), abs=1e-5)
    assert found.std() > 0.01
    assert ClassifyScorer(str(model), "Watermark")(Batch([], []))["watermark"].shape == (0,)


def test_labels_of_one_model_run_it_once(model: Path) -> None:
    given = {"model": str(model)}
    configs = [
        Score(name="classify", options={**given, "label": "Watermark"}),
        Score(name="classify", options={**given, "label": "Not Safe!"}),
        Score(name="classify", options={**given, "label": "Clean", "column": "fine"}),
    ]
    scorers = make_scorers(configs)
    assert [*score_columns(configs).names] == ["watermark", "not_safe", "fine"]
    assert len(set(identity(configs).values())) == 3 and wants_gpu(configs)
    calls = []
    network, _ = open_classifier(str(model), None)._model
    hook = network.register_forward_hook(lambda *_: calls.append(1))
    try:
        batch = Batch(images(4), [None] * 4)
        scores = [scorer(batch)[column] for scorer in scorers for column in scorer.columns]
    finally:
        hook.remove()
    assert len(calls) == 1
    if network.config.problem_type is None:
        np.testing.assert_allclose(np.sum(scores, axis=0), 1, atol=1e-5)


def test_other_weights_and_labels_have_another_digest(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "other")
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    digests = {
        ClassifyScorer(str(folder), label).digest
        for folder in (model, tmp_path / "other")
        for label in ("Clean", "Watermark")
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": "watermark"}, "has no label 'watermark'; did you mean Watermark?"),
        ({"label": "Clean", "model": "./nothing"}, "no classifier at ./nothing: give `model:` its folder"),
        ({"label": "Clean", "column": "a-b"}, "needs a `column:` that a rule can name"),
        ({}, "the score classify needs the option 'label'"),
        ({"label": 3}, "takes text (got 3)"),
    ],
)
def test_what_is_wrong_is_said(model: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        make_scorers([Score(name="classify", options={"model": str(model), **options})])
    assert said in str(refused.value)
    twice = [Score(name="classify", options={"model": str(model), "label": "Clean"})] * 2
    with pytest.raises(ValueError, match="the score classify:clean is named twice"):
        make_scorers(twice)


def test_a_model_without_a_head_is_refused(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, tmp_path / "headless")
    weights = load_file(tmp_path / "headless" / "model.safetensors")
    left = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
    save_file(left, tmp_path / "headless" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"is no image classifier: it lacks classifier\.bias"):
        ClassifyScorer(str(tmp_path / "headless"), "Clean")(Batch(images(1), [None]))
    config = json.loads((tmp_path / "headless" / "config.json").read_text())
    (tmp_path / "headless" / "config.json").write_text(json.dumps({**config, "model_type": "no"}))
    open_classifier.cache_clear()
    with pytest.raises(ValueError, match="cannot load the classifier"):
        ClassifyScorer(str(tmp_path / "headless"), "Clean")(Batch(images(1), [None]))
