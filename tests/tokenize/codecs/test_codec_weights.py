"""Finding weights, telling what they are, and their digests."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rasterloom.tokenize.codecs.codec_weights import codec_weights, digest_of
from rasterloom.tokenize.codecs.load import codec_digest, load_codec

IMAGES = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tensors(network):
    return network.state_dict()


@pytest.fixture
def codes(codec_name, checkpoint):
    return load_codec(codec_name, checkpoint).encode(IMAGES)


@pytest.mark.parametrize("prefix", ["", "module.", "model.vqmodel.", "first_stage_model."])
def test_a_bare_file_may_be_torchs_or_safetensors(codec_name, tensors, codes, tmp_path, prefix):
    named = {prefix + name: tensor for name, tensor in tensors.items()} | {"other.weight": torch.zeros(2)}
    torch.save(named, tmp_path / "weights.pt")
    save_file(named, tmp_path / "weights.safetensors")
    for name in ("weights.pt", "weights.safetensors"):
        np.testing.assert_array_equal(load_codec(codec_name, tmp_path / name).encode(IMAGES), codes)


def test_a_folder_with_one_checkpoint_will_do(codec_name, checkpoint, codes, tmp_path):
    folder = tmp_path / "chameleon" / "tokenizer"
    folder.mkdir(parents=True)
    shutil.copy(checkpoint, folder)
    np.testing.assert_array_equal(load_codec(codec_name, folder.parent).encode(IMAGES), codes)
    shutil.copy(checkpoint, folder / "another.ckpt")
    with pytest.raises(
        ValueError, match=r"several checkpoints: name one of .*another\.ckpt, .*(vqgan\.ckpt|c2i\.pt)"
    ):
        codec_weights(codec_name, str(folder))


def test_what_holds_no_tokenizer_is_refused(codec_name, tmp_path):
    save_file({"model.embed_tokens.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"no tokenizer network in .*holds model\.safetensors; codec .* takes"
    ):
        load_codec(codec_name, tmp_path)
    with pytest.raises(ValueError, match="holds no VQGAN: it has no codebook"):
        load_codec(codec_name, tmp_path / "model.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt holds no VQGAN: it has no codebook"):
        load_codec(codec_name, tmp_path / "a.ckpt")


class Evil:
    def __reduce__(self):
        return print, ("this code must not run",)


def test_a_pickle_with_code_is_not_run(codec_name, tensors, tmp_path, capsys):
    torch.save({"state_dict": tensors, "callbacks": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt holds more than tensors, which could run code"):
        load_codec(codec_name, tmp_path / "evil.ckpt")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content"), [("a.ckpt", b"nothing"), ("a.safetensors", b"\x05"), ("b.pt", b"")]
)
def test_other_files_are_named(codec_name, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load_codec(codec_name, tmp_path / name)


def test_missing_and_odd_tensors_are_named(codec_name, tensors, tmp_path):
    def load(changed):
        torch.save(changed, tmp_path / "w.pt")
        return load_codec(codec_name, tmp_path / "w.pt")

    some = {name: t for name, t in tensors.items() if name != "encoder.mid.block_1.conv2.bias"}
    with pytest.raises(ValueError, match=r"tensor encoder\.mid_block\.resnets\.0\.conv2\.bias is missing"):
        load(some)
    with pytest.raises(ValueError, match=r"it has a tensor encoder\.surplus\.weight, for which .* no place"):
        load(tensors | {"encoder.surplus.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"encoder\.conv_in\.bias has the shape \[7\], its place \[32\]"):
        load(tensors | {"encoder.conv_in.bias": torch.zeros(7)})
    no_input = {name: t for name, t in tensors.items() if name != "encoder.conv_in.weight"}
    with pytest.raises(ValueError, match=r"encoder\.conv_in\.weight.* is missing"):
        load(no_input)


def test_weights_of_the_other_codec_are_refused(codec_name, checkpoint):
    other = {"chameleon": "movq", "movq": "chameleon", "llamagen": "movq"}[codec_name]
    with pytest.raises(
        ValueError, match=f"cannot be codec {other}: the network has .* pixels a side of a code"
    ):
        load_codec(other, checkpoint)


def test_an_encoder_alone_encodes(codec_name, tensors, codes, tmp_path):
    save_file({n: t for n, t in tensors.items() if not n.startswith("decoder.")}, tmp_path / "e.safetensors")
    codec = load_codec(codec_name, tmp_path / "e.safetensors")
    np.testing.assert_array_equal(codec.encode(IMAGES), codes)
    assert not codec.can_decode


def test_the_digest_of_safetensors_is_of_the_networks_tensors(codec_name, tensors, tmp_path):
    """However they are cut into files and whatever lies beside them."""

    def digest(folder, *files):
        folder.mkdir()
        for number, part in enumerate(files):
            save_file(part, folder / f"model-{number}.safetensors")
        return codec_digest(codec_name, folder)

    named = {f"model.vqmodel.{name}": tensor for name, tensor in tensors.items()}
    first = digest(tmp_path / "a", named)
    half = sorted(named)[: len(named) // 2]
    parts = ({n: named[n] for n in half}, {n: t for n, t in named.items() if n not in half})
    assert digest(tmp_path / "b", *parts, {"lm_head.weight": torch.zeros(5)}) == first
    changed = named | {"model.vqmodel.quant_conv.bias": named["model.vqmodel.quant_conv.bias"] + 1}
    assert digest(tmp_path / "c", changed) != first


def test_a_changed_file_has_another_digest(codec_name, checkpoint, tmp_path):
    path = tmp_path / "copy.ckpt"
    shutil.copy(checkpoint, path)
    before = digest_of(codec_name, str(path))
    assert before == digest_of(codec_name, str(checkpoint))
    path.write_bytes(path.read_bytes() + b"\0")
    assert digest_of(codec_name, str(path)) != before


def test_the_digest_does_not_wait_for_torch(codec_name, checkpoint):
    import subprocess
    import sys

    code = (
        "import sys; from rasterloom.tokenize.codecs.load import codec_digest; "
        f"codec_digest({codec_name!r}, {str(checkpoint)!r}); print('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"


def test_nothing_there_is_reported_with_what_is_taken(codec_name, tmp_path):
    for given in (str(tmp_path / "none"), "weights/none.ckpt"):
        with pytest.raises(
            ValueError, match=rf"nothing at .*none.*codec {codec_name} takes .*(vqgan|movqgan_270M|vq_ds16)"
        ):
            codec_digest(codec_name, given)
    with pytest.raises(ValueError, match=rf"codec {codec_name} has no weights of its own"):
        codec_digest(codec_name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache on this machine, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def add(repo, revision="main"):
        folder = tmp_path / f"models--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / revision).write_text("0" * 40)
        snapshot = folder / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True, exist_ok=True)
        return snapshot

    return add


def test_an_id_on_the_hub_is_resolved_by_its_cache(hub, codec_name, tensors, codes):
    folder = hub("someone/tokenizer", "v1")
    named = {f"model.vqmodel.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "model-00002-of-00002.safetensors")
    index = {"weight_map": dict.fromkeys(named, "model-00002-of-00002.safetensors") | {"lm_head": "x"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    codec = load_codec(codec_name, "someone/tokenizer@v1")
    np.testing.assert_array_equal(codec.encode(IMAGES), codes)
    assert codec.digest == codec_digest(codec_name, "someone/tokenizer@v1")
    assert codec.digest != codec_digest(codec_name, "someone/tokenizer@v2")


def test_an_id_that_the_hub_does_not_give_is_reported(hub, codec_name):
    with pytest.raises(
        ValueError, match="someone/else is no file here, and cannot be had from the Hugging Face"
    ):
        load_codec(codec_name, "someone/else")
    hub("someone/empty")
    with pytest.raises(ValueError, match="no tokenizer network in someone/empty"):
        load_codec(codec_name, "someone/empty")
