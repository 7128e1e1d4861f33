import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rasterloom.filtering.scorers.quality import distance, patch_features


@pytest.fixture(scope="module")
def script() -> types.ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "fit_niqe.py"
    spec = importlib.util.spec_from_file_location("fit_niqe", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    grains = [rng.uniform(0, 255, (60, 80)).astype(np.float32) for _ in range(n)]
    return [np.asarray(Image.fromarray(g).resize((320, 240)).convert("L")) for g in grains]


def test_what_was_fitted_is_nearer_than_what_was_not(script: types.ModuleType) -> None:
    lumas = pictures(12)
    model = script.fit(lumas[:-1])
    own = distance(patch_features(lumas[-1]), model)
    noise = np.random.default_rng(1).integers(0, 256, (240, 320), dtype=np.uint8)
    assert own < 2 * model.median
    assert distance(patch_features(noise), model) > 3 * own


def test_a_photograph_is_reduced_to_each_side(script: types.ModuleType, tmp_path: Path) -> None:
    Image.new("RGB", (1280, 800)).save(tmp_path / "x.jpg")
    assert [luma.shape for luma in script.reduced(tmp_path / "x.jpg")] == [(400, 640), (250, 400), (160, 256)]


def test_a_missing_photograph_is_named(script: types.ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"Bridge_by_Sander_Klootwijk\.jpg is 0 times below"):
        list(script.find(tmp_path))
