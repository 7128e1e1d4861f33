"""Codecs with weights of their own, through the workflow."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from rasterloom.errors import RecipeError
from rasterloom.pipelines.cluster.doctor import examine
from rasterloom.pipelines.corpus.steps import corpus_steps
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.crop import apply_crop, plan_crop, seed_of
from rasterloom.tokenize.profiles import CHAMELEON, EMU3
from rasterloom.tokenize.unirep import unframe


@pytest.fixture(scope="module")
def chameleon(tmp_path_factory):
    """A tiny Chameleon of transformers: its tokenizer network has the layout of the large one's."""
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration

    layout = {"base_channels": 32, "channel_multiplier": [1, 1, 1, 2, 2], "num_res_blocks": 1}
    torch.manual_seed(0)
    config = ChameleonConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vq_config=layout | {"embed_dim": 16, "latent_channels": 16},
        vocabulary_map={"<image>": 8, "IMGIMGAZ": 9},
    )
    folder = tmp_path_factory.mktemp("chameleon")
    ChameleonForConditionalGeneration(config).save_pretrained(folder)
    return folder


def with_codec(workshop, options):
    return workshop.write(**{"text_vocab: 300": f"text_vocab: 300, {options}"})


@pytest.fixture(scope="module")
def made(workshop_at, chameleon, tmp_path_factory):
    """A workshop that tokenised with it, by a path relative to the recipe, and wrote its report."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(chameleon, folder / "weights" / "chameleon")
    shop = with_codec(workshop_at(folder / "recipe.yaml"), "codec: chameleon, weights: weights/chameleon")
    shop.run()
    return shop


def test_tokens_are_the_codes_of_the_crops(made, chameleon):
    codec = load_codec("chameleon", chameleon)
    tokens, images = made.rows("tokens"), {row["key"]: row for row in made.rows("images")}
    assert len(tokens) == sum(row["kept"] for row in made.rows("selection")) > 20
    for row in tokens[::8]:
        with Image.open(io.BytesIO(images[row["key"]]["image"])) as image:
            plan = plan_crop(image.size, bucket_sizes(64), seed=seed_of(row["key"], 0))
            codes = codec.encode(np.array(apply_crop(image, plan))[None])[0]
        np.testing.assert_array_equal(unframe_answer(row["input_ids"], CHAMELEON), codes)


def test_the_report_says_that_nothing_can_be_decoded(made):
    (page,) = made.recipe_file.parent.glob("work/**/report/**/index.html")
    text = page.read_text()
    assert "The weights of the codec chameleon hold its encoder alone" in text
    assert 'class="recon"' not in text


def test_a_row_is_shown_with_the_recipes_weights(made, rasterloom, tmp_path):
    code, printed, _ = rasterloom("tokens", "show", made.recipe_file, "0")
    assert code == 0 and "chameleon" in printed
    code, _, error = rasterloom("tokens", "show", made.recipe_file, "0", "--out", tmp_path / "row.png")
    assert code == 2 and "holds the encoder of chameleon alone" in error


def test_tokens_of_emu3_have_a_layout_of_their_own(workshop, rasterloom, tmp_path):
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    small = {"base_channels": 32, "channel_multiplier": [1, 1, 1, 2], "num_res_blocks": 1, "hidden_size": 64}
    torch.manual_seed(0)
    Emu3VQVAE(Emu3VQVAEConfig(**small)).save_pretrained(tmp_path / "emu3")
    shop = with_codec(workshop, f"codec: emu3, weights: {tmp_path / 'emu3'}")
    shop.run("--until", "tokens/64")
    (row, *_) = shop.rows("tokens")
    codes = unframe_answer(row["input_ids"], EMU3)
    assert codes.max() < 32_768 and len(np.unique(codes)) > 1
    code, _, error = rasterloom("tokens", "show", shop.recipe_file, "0", "--out", tmp_path / "row.png")
    assert code == 0, error
    with Image.open(tmp_path / "row.png") as image:
        decoded = load_codec("emu3", tmp_path / "emu3").decode(codes[None])[0]
        assert image.width >= decoded.shape[1]


def unframe_answer(input_ids, profile):
    ids = np.array(input_ids)
    start, end = (np.flatnonzero(ids == id_)[0] for id_ in (profile.boi, profile.eoi))
    return unframe(ids[start : end + 1], profile)


def codes_step(shop):
    return next(step for step in corpus_steps(shop.recipe) if step.name == "codes/64")


def test_weights_count_by_what_they_hold_and_not_by_where_they_lie(workshop, chameleon, tmp_path):
    moved = tmp_path / "elsewhere" / "weights"
    shutil.copytree(chameleon, moved)
    first = codes_step(with_codec(workshop, f"codec: chameleon, weights: {chameleon}"))
    assert first.uses_gpu
    again = codes_step(with_codec(workshop, f"codec: chameleon, weights: {moved}"))
    assert again.fingerprint == first.fingerprint
    fast = codes_step(with_codec(workshop, f"codec: chameleon, weights: {moved}, precision: bf16"))
    assert fast.fingerprint != first.fingerprint
    from safetensors.torch import load_file, save_file

    (file,) = moved.glob("*.safetensors")
    tensors = load_file(file)
    tensors["lm_head.weight"] += 1  # a model trained further has the same tokenizer
    save_file(tensors, file, {"format": "pt"})
    again = codes_step(with_codec(workshop, f"codec: chameleon, weights: {moved}"))
    assert again.fingerprint == first.fingerprint
    tensors["model.vqmodel.quant_conv.bias"] += 1
    save_file(tensors, file, {"format": "pt"})
    again = codes_step(with_codec(workshop, f"codec: chameleon, weights: {moved}"))
    assert again.fingerprint != first.fingerprint
    assert not codes_step(workshop.write()).uses_gpu  # mini


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "codec: chameleon, weights: nothing/here.ckpt",
            r"nothing at .*nothing/here\.ckpt; codec chameleon takes",
        ),
        ("codec: chameleon, weights: .", "no tokenizer network in .*recipe.yaml"),
        ("text: tokenizer.json", r"tokenize\.text: cannot read .*tokenizer\.json: No such file"),
    ],
)
def test_what_is_not_there_is_reported_before_anything_runs(workshop, options, words):
    with pytest.raises(RecipeError, match=words):
        corpus_steps(with_codec(workshop, options).recipe)


def test_a_tokenizer_without_the_codecs_tokens_is_reported_before_anything_runs(
    workshop, chameleon, tmp_path
):
    from rasterloom.tokenize.text_tokenizer import train_text

    (tmp_path / "t.json").write_text(train_text(["a red dot"], 300))
    shop = with_codec(workshop, f"codec: chameleon, weights: {chameleon}, text: t.json")
    with pytest.raises(
        RecipeError, match=r"t\.json: it lacks \d+ tokens that chameleon needs: <racm3:break>"
    ):
        corpus_steps(shop.recipe)


def test_doctor_looks_at_the_weights(workshop, chameleon):
    def codec_finding(options):
        (found,) = (f for f in examine(with_codec(workshop, options).recipe) if f.what.startswith("codec"))
        return found

    found = codec_finding(f"codec: chameleon, weights: {chameleon}")
    assert found.ok and "encoder alone" in found.what
    found = codec_finding(f"codec: movq, weights: {chameleon}")
    assert not found.ok and "the network has 16 pixels a side of a code and 8192 codes" in found.what
