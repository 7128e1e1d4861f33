from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rasterloom.filtering.scorers.aesthetic import AestheticScorer, load_head
from rasterloom.filtering.scorers.base import Batch

WIDTHS = (768, 1024, 128, 64, 16, 1)
V2_NUMBERS = (0, 2, 4, 6, 7)


def v2_layers(width: int = WIDTHS[0]) -> list[nn.Linear]:
    torch.manual_seed(0)
    widths = (width, *WIDTHS[1:])
    return [nn.Linear(a, b) for a, b in pairwise(widths)]


def save_v2(path: Path, layers: list[nn.Linear]) -> Path:
    state = {}
    for number, layer in zip(V2_NUMBERS, layers, strict=True):
        state[f"layers.{number}.weight"], state[f"layers.{number}.bias"] = layer.weight.data, layer.bias.data
    torch.save(state, path)
    return path


def embeddings(n: int, width: int = 768) -> np.ndarray:
    e = np.random.default_rng(0).normal(size=(n, width))
    return (e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32)


def test_v2_head_equals_its_layers_in_torch(tmp_path: Path) -> None:
    layers = v2_layers()
    head = load_head(save_v2(tmp_path / "head.pth", layers))
    e = embeddings(50)
    with torch.no_grad():
        expected = nn.Sequential(*layers)(torch.from_numpy(e))[:, 0].numpy()
    scores = head(e)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_v1_head_equals_a_linear_layer(tmp_path: Path) -> None:
    layer = nn.Linear(768, 1)
    torch.save(layer.state_dict(), tmp_path / "head.pth")
    e = embeddings(50)
    with torch.no_grad():
        expected = layer(torch.from_numpy(e))[:, 0].numpy()
    np.testing.assert_allclose(load_head(tmp_path / "head.pth")(e), expected, atol=1e-6)


def test_no_embeddings_give_no_scores(tmp_path: Path) -> None:
    assert load_head(save_v2(tmp_path / "head.pth", v2_layers()))(embeddings(0)).shape == (0,)


def test_a_head_refuses_embeddings_of_another_width(tmp_path: Path) -> None:
    head = load_head(save_v2(tmp_path / "head.pth", v2_layers()))
    with pytest.raises(ValueError, match=r"takes embeddings \[n, 768\], not \[3, 512\]"):
        head(embeddings(3, 512))
    with pytest.raises(ValueError, match="another CLIP"):
        head(embeddings(1)[0])


def test_a_missing_head_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pth: give `head:`"):
        load_head(tmp_path / "none.pth")


def test_layers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    layers = v2_layers()
    layers[2] = nn.Linear(100, 64)
    with pytest.raises(ValueError, match=r"weight \[64, 100\] and bias \[64\] cannot follow 128 numbers"):
        load_head(save_v2(tmp_path / "head.pth", layers))
    layers = [*v2_layers()[:4], nn.Linear(16, 2)]
    with pytest.raises(ValueError, match="the last layer gives 2 numbers"):
        load_head(save_v2(tmp_path / "head.pth", layers))


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.pth"
    with_relu = {f"layers.{n}.{p}": torch.zeros(1) for n in (0, 3, 6, 9, 11) for p in ("weight", "bias")}
    for state in ({"fc.weight": torch.zeros(1, 768)}, {"weight": torch.zeros(1, 768)}, with_relu, {}):
        torch.save(state, path)
        with pytest.raises(ValueError, match="is no LAION head"):
            load_head(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds no named weights"):
        load_head(path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"is no \.pth file"):
        load_head(path)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("evil"),))


def test_a_pth_file_that_runs_code_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, "head.pth")
    with pytest.raises(ValueError, match=r"is no \.pth file"):
        load_head("head.pth")
    assert not Path("evil").exists()


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 50), (3, 90), (64, 32))]


def test_scorer_puts_the_head_on_normalised_embeddings(tmp_path: Path, clip: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel

    head = save_v2(tmp_path / "head.pth", v2_layers(24))
    scores = AestheticScorer(str(head), str(clip))(Batch(pictures(), [None] * 3))["aesthetic"]

    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPImageProcessorPil.from_pretrained(clip)
    with torch.no_grad():
        inputs = processor(pictures(), return_tensors="pt", input_data_format="channels_last")
        e = model.get_image_features(**inputs).pooler_output
    e = (e / e.norm(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(scores, load_head(head)(e), atol=1e-5)
    assert len(set(scores)) == 3


def test_digest_follows_head_and_checkpoint(tmp_path: Path, clip: Path) -> None:
    head = str(save_v2(tmp_path / "head.pth", v2_layers(24)))
    other = tmp_path / "other.pth"
    save_v2(other, [*v2_layers(24)[:4], nn.Linear(16, 1)])
    copy = tmp_path / "clip"
    copy.mkdir()
    for file in clip.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    first = AestheticScorer(head, str(clip)).digest
    assert AestheticScorer(head, str(copy)).digest == first
    assert AestheticScorer(str(other), str(clip)).digest != first
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert AestheticScorer(head, str(copy)).digest != first
    assert AestheticScorer(head, "a/b", "v1").digest != AestheticScorer(head, "a/b", "v2").digest
    assert AestheticScorer(head, "a/b").digest == AestheticScorer(head, "a/b", "main").digest


def test_missing_files_are_named_at_once(tmp_path: Path) -> None:
    head = save_v2(tmp_path / "head.pth", v2_layers(24))
    with pytest.raises(ValueError, match=r"nothing\.pth: give `head:`"):
        AestheticScorer(str(tmp_path / "nothing.pth"))
    with pytest.raises(ValueError, match="nowhere: give `clip:` its folder"):
        AestheticScorer(str(head), str(tmp_path / "nowhere"))


def test_a_folder_without_a_checkpoint_and_an_unreachable_hub_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = str(save_v2(tmp_path / "head.pth", v2_layers(24)))
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for clip in (str(tmp_path / "empty"), "nobody/no-such-clip"):
        with pytest.raises(ValueError, match="give `clip:` a folder with the checkpoint"):
            AestheticScorer(head, clip)(Batch(pictures(), [None] * 3))


def test_a_checkpoint_of_another_kind_is_not_filled_with_random_weights(tmp_path: Path, clip: Path) -> None:
    from safetensors.torch import load_file, save_file

    head = str(save_v2(tmp_path / "head.pth", v2_layers(24)))
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(clip / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"no checkpoint of a CLIP: it lacks visual_projection\.weight"):
        AestheticScorer(head, str(tmp_path))(Batch(pictures(), [None] * 3))
