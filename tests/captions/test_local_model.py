"""A vision-language model that runs here, tiny and random."""

import hashlib

import pytest
import torch
from language_models import BOS, END, write_tokenizer

from rasterloom.captions.answers import caption_in
from rasterloom.captions.caption_shard import caption_shard
from rasterloom.captions.local_model import VisionLanguageModel, local_digest
from rasterloom.recipe.captions import Captioner, LocalModel
from rasterloom.sources.failure import FetchFailure

TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LLaVA of two layers, with its processor."""
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    folder = tmp_path_factory.mktemp("llava")
    specials = (END, BOS, "<image>")
    size = write_tokenizer(folder, specials, {"eos_token": END, "bos_token": BOS, "pad_token": END})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    text = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=size - 3,
        bos_token_id=size - 2,
    )
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=size - 1, image_token_id=size - 1
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = size - 3
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def captioner(folder, **settings):
    section = {"path": str(folder), "precision": "fp32", "max_tokens": 8, **settings}
    return Captioner.model_validate({"name": "own", "local": section, "prompt": "{{ alt }}: what is it"})


def test_each_image_is_answered_as_if_it_were_alone(folder, images):
    rows = images(5, caption="a")
    long = images(5, caption="a much longer text as found, for other lengths in a batch")
    together, counts = caption_shard(rows, captioner(folder, batch=4))
    alone, _ = caption_shard(rows, captioner(folder, batch=1))
    assert together["caption"].to_pylist() == alone["caption"].to_pylist()
    assert (
        together["detail"].to_pylist() == alone["detail"].to_pylist()
    )  # of answers that were cut: their ends
    assert len(set(together["detail"].to_pylist()) | set(together["caption"].to_pylist())) > 2
    assert counts["tokens"] > 5 * 8
    other, _ = caption_shard(long, captioner(folder, batch=4))
    assert other["request"].to_pylist() != together["request"].to_pylist()


def test_answers_end_at_the_model_s_end_or_are_cut(folder, images):
    rows = images(2)
    config = captioner(folder).local
    model = VisionLanguageModel(config)
    from rasterloom.captions.prompt_values import request_of

    made = [request_of(captioner(folder), "", row, {}, row["image"]) for row in rows.to_pylist()]
    for answer in model.ask(made):
        assert answer.tokens_in > 4 and answer.tokens_out <= 8
        if answer.is_cut:
            assert answer.tokens_out == 8
            with pytest.raises(FetchFailure):
                caption_in(answer)
    model._ends = [*range(303)]  # whatever it says first is its end
    assert all(not answer.is_cut and answer.tokens_out == 0 for answer in model.ask(made))


def test_other_weights_are_another_model(folder, tmp_path):
    first = local_digest(LocalModel(path=str(folder)))
    assert first == local_digest(LocalModel(path=str(folder), batch=2))
    (tmp_path / "config.json").write_text(hashlib.sha256(b"").hexdigest())
    assert local_digest(LocalModel(path=str(tmp_path))) != first
    with pytest.raises(ValueError, match="no model at"):
        local_digest(LocalModel(path=str(tmp_path / "nothing")))


def test_a_folder_without_a_model_is_told(tmp_path, images):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no vision-language model"):
        caption_shard(images(1), captioner(tmp_path))
