"""Language models of each family: packed loss, export, sampler, adapters, estimates."""

import json
from math import prod
from pathlib import Path

import pytest
import torch
from language_models import CONFIGS, write_model
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from rasterloom.recipe.model import Lora, Model
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.tokenize.grown_vocabulary import read_tokenizer
from rasterloom.tokenize.text_tokenizer import text_of
from rasterloom.train.data.collate import IGNORE
from rasterloom.train.estimate.flops import train_flops
from rasterloom.train.estimate.memory import memory, trained_parameters
from rasterloom.train.job import Vocabulary
from rasterloom.train.model.initialization import build_model, image_ids
from rasterloom.train.model.lora import save_adapter
from rasterloom.train.model.packed_lm import PackedLM, check_start, save_model, training_model
from rasterloom.train.model.packing_check import check_packing
from rasterloom.train.model.shapes import (
    EMBEDDING,
    HEAD,
    first_new_id,
    parameter_shapes,
    shape_of,
    shape_of_config,
)
from rasterloom.train.sampling.sampler import cache_bytes, open_sampler
from rasterloom.utils.random_streams import stream_generator

LENGTHS = [40, 37, 36, 20, 5, 5]
PAIRS = [(family, tied) for family in CONFIGS for tied in (False, True)]


@pytest.fixture(params=PAIRS, ids=[f"{family}{'-tied' * tied}" for family, tied in PAIRS])
def init(request, tmp_path):
    """A language model's folder, of each family, with a head of its own and without."""
    return write_model(tmp_path / "init", request.param[0], tied=request.param[1])


@pytest.fixture
def one(tmp_path):
    """A language model's folder whose head is its embedding."""
    return write_model(tmp_path / "init", "qwen3", tied=True)


def ids_of(init):
    """The text and ids of a recipe that names the folder."""
    config = Tokenize(text=init)
    return text_of(config, read_tokenizer(init, config.codec))


def train_with(init, **model):
    stage = Stage(target=64, steps=1)
    return Train(stages=(stage,), init=init, dropout=0.0, model=Model(**model), seed=3)


def tokens(profile, lengths=LENGTHS):
    """Sequences of text and of images' tokens."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, profile.vocab_size, (n,), generator=generator) for n in lengths]


def trained_a_little(model, parts):
    """A model whose new rows and gains are no longer what they were."""
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.3)
    ids = torch.cat(parts)
    for _ in range(2):
        optimizer.zero_grad()
        (model(ids, ids.roll(-1), [len(part) for part in parts]).total / len(ids)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def test_losses_are_transformers_own_and_the_export_has_the_same_logits(init, tmp_path):
    text, profile = ids_of(init)
    parts = tokens(profile)
    model = trained_a_little(PackedLM(build_model(init, profile)), parts).eval()
    vocabulary = Vocabulary(text.tokenizer_json, text.first_id, text.vocabulary)
    save_model(model.lm, profile, tmp_path / "model", vocabulary=vocabulary)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    ids = torch.cat(parts)
    targets = torch.cat([torch.cat([part[1:], torch.tensor([IGNORE])]) for part in parts])
    with torch.no_grad():
        packed = model(ids, targets, LENGTHS)
        alone = [plain(input_ids=part[None], labels=part[None]) for part in parts]
        mine = [nll.mean() for nll in packed.nll.split([n - 1 for n in LENGTHS])]
        for of_pack, of_transformers in zip(mine, alone, strict=True):
            torch.testing.assert_close(of_pack, of_transformers.loss, rtol=1e-5, atol=1e-5)
        logits = torch.cat([one.logits[0] for one in alone])
        torch.testing.assert_close(
            packed.z, logits[targets != IGNORE].logsumexp(-1).square(), rtol=1e-5, atol=1e-4
        )
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    special = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert special == (profile.bos, profile.sep, profile.pad)
    assert (plain.config.bos_token_id, plain.config.eos_token_id, plain.config.pad_token_id) == special
    assert theirs("a star", add_special_tokens=False).input_ids == text.encode("a star")
    card = (tmp_path / "model/README.md").read_text()
    assert f"from transformers import {type(plain).__name__}\n" in card


def test_new_rows_are_the_mean_of_the_old_and_no_other_weight_changes(init):
    _, profile = ids_of(init)
    before = AutoModelForCausalLM.from_pretrained(init)
    model = build_model(init, profile)
    assert model.config.vocab_size == profile.vocab_size and first_new_id(init, profile) == profile.boi
    tied = model.config.tie_word_embeddings
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert [*dict(before.named_parameters())] == [*dict(model.named_parameters())]
    for name, parameter in model.named_parameters():
        was = before.get_parameter(name)
        if name in (EMBEDDING, HEAD):
            assert torch.equal(parameter[: profile.boi], was[: profile.boi])
            mean = was[: profile.boi].mean(0).expand(profile.vocab_size - profile.boi, -1)
            torch.testing.assert_close(parameter[profile.boi :], mean)
        else:
            assert torch.equal(parameter, was), name


def test_what_was_trained_does_not_grow_again(init, tmp_path):
    text, profile = ids_of(init)
    model = trained_a_little(PackedLM(build_model(init, profile)), tokens(profile)).lm
    vocabulary = Vocabulary(text.tokenizer_json, text.first_id, text.vocabulary)
    save_model(model, profile, tmp_path / "model", vocabulary=vocabulary)
    stored = load_file(tmp_path / "model/model.safetensors")
    assert (HEAD in stored) != model.config.tie_word_embeddings
    again = build_model(str(tmp_path / "model"), profile)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name


def test_gradients_are_the_same_whatever_is_computed_again(init):
    _, profile = ids_of(init)
    ids, found = torch.cat(tokens(profile)), []
    for remat in ("none", "selective", "full"):
        model = training_model(init, profile, train_with(init, remat=remat)).train()
        model(ids, ids.roll(-1), LENGTHS).total.backward()
        found.append({name: p.grad for name, p in model.lm.named_parameters()})
    for other in found[1:]:
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def plain_drawing(sampler, prompt, size, *, cfg, top_k, seed=0):
    """Codes one token at a time, without cache."""
    p = sampler.profile
    width, height = (side // p.downsample for side in size)
    image = [p.boi, p.grid0 + size[1] // 32, p.grid0 + size[0] // 32]
    chances, codes = iter(stream_generator("sample", seed=seed, number=0).random(width * height)), []
    for _ in range(height):
        for _ in range(width):
            rows = []
            for context in (prompt + image, image):
                with torch.no_grad():
                    logits = sampler.model(input_ids=torch.tensor([context]), use_cache=False).logits[0, -1]
                rows.append(logits[p.image0 : p.image0 + p.codebook_size])
            scores = cfg * (rows[0] - rows[1]) + rows[1]
            scores = scores.masked_fill(scores < scores.topk(top_k).values[-1], -torch.inf)
            mass = scores.double().softmax(dim=0).cumsum(dim=0)
            codes.append(int(torch.searchsorted(mass, next(chances) * mass[-1], right=True)))
            image.append(p.image0 + codes[-1])
        image.append(p.eol)
    return codes


def test_cache_and_guidance_draw_what_is_drawn_without_cache(init, tmp_path):
    text, profile = ids_of(init)
    model = trained_a_little(PackedLM(build_model(init, profile)), tokens(profile)).lm
    with torch.no_grad():  # rows of codes far apart, so that errors show
        noise = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(2))
        model.lm_head.weight.add_(noise)
    save_model(model, profile, tmp_path / "model")
    sampler = open_sampler(tmp_path / "model", profile)
    prompts = [[profile.bos, *text.encode(caption), profile.sep] for caption in ("a red star", "a")]
    size, settings = (64, 32), {"cfg": 3.0, "top_k": 40}
    drawn = sampler.sample(prompts, [size, size], **settings)
    assert drawn[0].flatten().tolist() == plain_drawing(sampler, prompts[0], size, **settings)
    shape = shape_of(init, profile.vocab_size)
    assert cache_bytes(model.config, 2) == 2 * 2 * shape.layers * shape.keys


def test_adapters_merge_into_a_plain_model(init, tmp_path):
    _, profile = ids_of(init)
    lora = Lora(rank=4, alpha=8, vocabulary=True)
    parts = tokens(profile)
    model = trained_a_little(training_model(init, profile, train_with(init, lora=lora)).train(), parts).eval()
    save_model(model.lm, profile, tmp_path / "model", lora=lora)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    start = build_model(init, profile)
    save_model(start, profile, tmp_path / "base")
    save_adapter(model.lm.state_dict(), lora, tmp_path / "adapter", base=init)
    with torch.no_grad():
        packed = model(parts[0], parts[0].roll(-1), [len(parts[0])])
        logits = plain(input_ids=parts[0][None]).logits[0]
        torch.testing.assert_close(packed.nll, cross_entropy(logits, parts[0].roll(-1), reduction="none"))
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        assert not torch.allclose(base(input_ids=parts[0][None]).logits[0], logits, atol=1e-2)
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        torch.testing.assert_close(adapted(input_ids=parts[0][None]).logits[0], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lora", [None, Lora(rank=2, targets=("q_proj", "down_proj"), vocabulary=True)])
def test_a_dry_run_counts_the_parameters_that_there_are(init, lora):
    _, profile = ids_of(init)
    train = train_with(init, lora=lora)
    lm = training_model(init, profile, train).lm
    shape = shape_of(init, profile.vocab_size)
    assert shape_of_config(lm.config.to_dict()) == shape
    assert parameter_shapes(shape, lora) == {name: tuple(p.shape) for name, p in lm.named_parameters()}
    learning = {name for name, p in lm.named_parameters() if p.requires_grad}
    assert trained_parameters(shape, lora, ()) == learning
    told = memory(shape, train, (), 1, 0)
    assert told.params == sum(p.numel() for p in lm.parameters())
    assert told.trained == sum(p.numel() for p in lm.parameters() if p.requires_grad)


def test_a_dry_run_counts_the_products_that_there_are(init):
    _, profile = ids_of(init)
    model = PackedLM(build_model(init, profile))
    ids = torch.cat(tokens(profile))
    with FlopCounterMode(display=False) as counter:
        model(ids, ids.roll(-1), LENGTHS).total.backward()
    counted = counter.get_flop_counts()["Global"]
    matrices = sum(flops for op, flops in counted.items() if op.__name__.split(".")[0] in ("mm", "addmm"))
    shape = shape_of(init, profile.vocab_size)
    assert matrices == train_flops(shape, tokens=len(ids), squares=0, loss_tokens=len(ids))
    attention = train_flops(shape, tokens=0, squares=100, loss_tokens=0)
    assert attention == 6 * shape.layers * prod((shape.heads, shape.head_width)) * 100


def test_every_family_passes_the_check_before_training(init):
    check_packing(init)


def test_a_window_of_attention_is_refused(tmp_path):
    init = write_model(tmp_path / "init", "mistral", tied=False, sliding_window=16)
    with pytest.raises(ValueError, match=r"a tiny mistral of its config .* a window of 16 tokens\)$"):
        check_packing(init)
    late = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 11}
    init = write_model(tmp_path / "late", "qwen2", tied=False, num_hidden_layers=12, **late)
    with pytest.raises(ValueError, match="cannot be trained on packed sequences"):
        check_packing(init)


def test_other_families_are_refused_in_a_line(one, profile):
    config = Path(one) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "gemma3_text"}))
    with pytest.raises(ValueError, match=r"type 'gemma3_text', but takes chameleon, llama, .*smollm3$"):
        build_model(one, profile)


def test_tokens_of_other_ids_are_refused(one, profile):
    with pytest.raises(ValueError, match=r"is a language model, .* set tokenize\.text to its folder"):
        build_model(one, profile)


def test_a_head_that_is_the_embedding_cannot_start_as_zeros(one, tmp_path):
    _, profile = ids_of(one)
    with pytest.raises(ValueError, match="cannot start as zeros"):
        build_model(one, profile, zero_image_head="true")
    other = write_model(tmp_path / "untied", "qwen3", tied=False)
    assert not build_model(other, profile, zero_image_head="true").lm_head.weight[image_ids(profile)].any()


def test_adapters_without_the_vocabulary_are_refused_where_images_are_new(one):
    _, profile = ids_of(one)
    with pytest.raises(ValueError, match=r"set train\.model\.lora\.vocabulary: true"):
        check_start(one, profile, train_with(one, lora=Lora(rank=2)))


@pytest.mark.usefixtures("one_rank")
def test_dealt_out_it_has_the_weights_that_the_whole_model_has(one):
    import deepspeed

    from rasterloom.train.model.zero3_init import build_partitioned
    from rasterloom.train.optim.deepspeed_engine import set_up_deepspeed

    _, profile = ids_of(one)
    set_up_deepspeed(use_gpu=False)
    train = train_with(one).model_copy(update={"deepspeed": DeepSpeed(zero=3)})
    dealt, whole = build_partitioned(one, profile, train), build_model(one, profile)
    assert [*dict(dealt.named_parameters())] == [*dict(whole.named_parameters())]
    assert dealt.lm_head.weight is dealt.model.embed_tokens.weight
    for name, parameter in dealt.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            assert torch.equal(parameter.data, whole.get_parameter(name)), name
