"""Checkpoints as people have them: pointers, half downloads, other formats, tied embeddings."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ChameleonForConditionalGeneration

from rasterloom.train.model.checkpoint_files import check_files
from rasterloom.train.model.initialization import build_model, check_checkpoint
from rasterloom.train.model.shapes import check_init

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 13\n"
ONE, BIN, INDEX = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"


def as_pytorch(folder, *, old=False):
    weights = load_file(folder / ONE)
    (folder / ONE).unlink()
    torch.save(weights, folder / BIN, _use_new_zipfile_serialization=not old)


def cut(file, by):
    file.write_bytes(file.read_bytes()[:-by])


def cut_pytorch(folder, *, old=False):
    as_pytorch(folder, old=old)
    cut(folder / BIN, 300)


def with_index(folder, text):
    (folder / ONE).unlink()
    (folder / INDEX).write_text(text)


BROKEN = {
    "pointer": (lambda f: (f / ONE).write_bytes(POINTER), ONE, "git-lfs pointer .*run `git lfs pull`"),
    "pointer for a config": (
        lambda f: (f / "config.json").write_bytes(POINTER),
        "config.json",
        "git lfs pull",
    ),
    "cut": (lambda f: cut(f / ONE, 1), ONE, "cut short or damaged: download it again"),
    "cut in the header": (lambda f: (f / ONE).write_bytes((f / ONE).read_bytes()[:99]), ONE, "cut short"),
    "no header": (lambda f: (f / ONE).write_bytes(b"\x02" + bytes(7) + b"[]"), ONE, "cut short or damaged"),
    "empty": (lambda f: (f / ONE).write_bytes(b""), ONE, "is empty: download it again"),
    "cut pytorch": (cut_pytorch, BIN, "cut short or damaged: download it again"),
    "index without a map": (lambda f: with_index(f, "{}"), INDEX, "has no weight_map"),
    "cut index": (lambda f: with_index(f, '{"weight_map": {"a'), INDEX, "holds no JSON object"),
    "cut config": (lambda f: cut(f / "config.json", 9), "config.json", "holds no JSON object"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_one_line_names_the_file_and_the_way_out(small_checkpoint, profile, kind):
    breaks, name, words = BROKEN[kind]
    folder = Path(small_checkpoint)
    check_init(small_checkpoint)
    breaks(folder)
    for look in (
        check_init,
        lambda init: check_checkpoint(init, profile),
        lambda init: build_model(init, profile),
    ):
        with pytest.raises(
            ValueError, match=f"^train.init: {re.escape(str(folder / name))} .*{words}"
        ) as found:
            look(small_checkpoint)
        assert "\n" not in str(found.value)


def test_an_old_format_that_is_cut_short_is_named(small_checkpoint, profile):
    """It has no directory to tell it by: only who reads it finds out, before any worker starts."""
    cut_pytorch(Path(small_checkpoint), old=True)
    with pytest.raises(ValueError, match=f"{BIN} is cut short or damaged"):
        check_checkpoint(small_checkpoint, profile)


def test_the_format_of_before_pytorch_1_6_loads(small_checkpoint, profile):
    expected = build_model(small_checkpoint, profile).state_dict()
    as_pytorch(Path(small_checkpoint), old=True)
    check_files(Path(small_checkpoint))
    check_checkpoint(small_checkpoint, profile)
    found = build_model(small_checkpoint, profile).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_head_that_is_the_embedding_becomes_its_own(small_checkpoint, profile):
    folder = Path(small_checkpoint)
    weights = load_file(folder / ONE)
    del weights["lm_head.weight"]
    save_file(weights, folder / ONE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit its config.json: missing: lm_head.weight$"):
        check_checkpoint(small_checkpoint, profile)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    check_init(small_checkpoint)
    check_checkpoint(small_checkpoint, profile)
    model = build_model(small_checkpoint, profile).eval()
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert not model.config.tie_word_embeddings  # so that what is trained is what is saved
    plain = ChameleonForConditionalGeneration.from_pretrained(small_checkpoint, dtype=torch.float32).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, plain(input_ids=ids).logits)
