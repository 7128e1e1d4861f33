import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from operators import Watch

from rasterloom.recipe.model import Model
from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train.model.packed_lm import own_attention, training_model
from rasterloom.train.model.shapes import SIZES
from rasterloom.train.sampling.sampler import Sampler

LENGTHS = ([40, 37, 20, 5], [33, 33, 9], [50])


def model_with(profile, init="tiny", dtype=torch.float32, **options):
    stages, options = (Stage(target=64, steps=1),), Model(**options)
    train = Train(stages=stages, model=options, z_loss=0.01, dropout=0.0, init=init)
    return training_model(init, profile, train).to(dtype).train()


def step(model, lengths):
    """(loss, gradients, bytes that wait for the backward pass, how often each operator ran)"""
    ids = torch.arange(sum(lengths)) % 40
    model.zero_grad()
    with Watch() as watch:
        loss = model(ids, ids.roll(-1), lengths).total
        kept = watch.alive()
        loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    return loss.detach(), gradients, kept, watch.counts


@pytest.mark.parametrize("remat", ["selective", "full"])
def test_gradients_are_the_same_whatever_is_kept(remat, profile):
    plain, other = model_with(profile), model_with(profile, remat=remat)
    for lengths in LENGTHS:
        loss, gradients, *_ = step(plain, lengths)
        same_loss, same_gradients, *_ = step(other, lengths)
        assert same_loss == loss
        for name, gradient in gradients.items():
            torch.testing.assert_close(same_gradients[name], gradient, rtol=1e-6, atol=1e-7, msg=name)


def test_dropout_is_drawn_alike_when_computed_again(profile):
    train = Train(stages=(Stage(target=64, steps=1),), dropout=0.3)
    losses, gradients = [], []
    for remat in ("none", "selective", "full"):
        model = training_model(
            "tiny", profile, train.model_copy(update={"model": Model(remat=remat)})
        ).train()
        torch.manual_seed(1)
        loss, grads, *_ = step(model, LENGTHS[0])
        losses.append(loss)
        gradients.append(grads["lm.model.embed_tokens.weight"])
    assert losses[0] == losses[1] == losses[2]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-5, atol=1e-6)


def test_what_is_kept_falls(profile):
    lengths = [200, 190, 180]
    none, selective, full = (
        step(model_with(profile, remat=remat), lengths)[2] for remat in ("none", "selective", "full")
    )
    assert full < 0.5 * selective
    assert selective < 0.4 * none


def test_selective_runs_attention_once_and_the_wide_products_of_the_mlp_twice(profile):
    attention, product = "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::mm"
    none, selective, full = (
        step(model_with(profile, remat=remat), [40, 20])[3] for remat in ("none", "selective", "full")
    )
    layers = 3
    assert selective[attention] == none[attention] == 2 * layers  # a group of sequences each
    assert full[attention] == 2 * none[attention]
    assert selective[product] == none[product] + 2 * layers  # gate and up
    # The last product of a layer is not needed again, but for DeepSpeed's own, where an engine ran before.
    assert none[product] + 6 * layers <= full[product] <= none[product] + 7 * layers


def losses_and_gradients(models, lengths):
    """Of each model a list; no dispatch mode is about, under which nothing would be compiled."""
    ids = torch.arange(sum(lengths)) % 40
    for model in models:
        model.zero_grad()
        loss = model(ids, ids.roll(-1), lengths).total
        loss.backward()
        yield [loss.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("remat", ["none", "full"])
def test_compiled_layers_give_the_same_and_are_compiled_once_for_all_lengths(remat, profile, monkeypatch):
    """Without the code that inductor would write, which takes a C++ compiler and a minute."""
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, compiled = model_with(profile), model_with(profile, compile=True, remat=remat)
    graphs = []
    for lengths in [[40, 37, 20, 5], [33, 33, 9], [50], [60, 50, 40, 30, 20, 10], [71, 70], [8, 7, 6]]:
        for one, other in zip(*losses_and_gradients((plain, compiled), lengths), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[-1] == graphs[2]  # no new ones for new lengths, or another number of sequences


@pytest.mark.parametrize(("remat", "heads"), [("none", 4), ("selective", 2), ("full", 2)])
def test_with_a_gpus_attention_a_layer_is_one_graph_for_all_lengths(
    remat, heads, profile, varlen_on_a_cpu, monkeypatch
):
    """``fullgraph`` raises where anything of a layer is left out. ``selective`` attends once, as eager."""
    monkeypatch.setitem(SIZES, "tiny", replace(SIZES["tiny"], kv_heads=heads))
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    plain, compiled = model_with(profile), model_with(profile, compile=True, remat=remat)
    graphs, layers = [], 3
    for lengths in [[40, 37, 20, 5], [33, 33, 9], [50], [60, 50, 40, 30, 20, 10], [71, 70], [8, 7, 6]]:
        varlen_on_a_cpu.clear()
        for one, other in zip(*losses_and_gradients((plain, compiled), lengths), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
        times = 2 if remat == "full" else 1
        assert varlen_on_a_cpu == {"forward": layers * (1 + times), "backward": 2 * layers}
    assert graphs[0] == 1  # of all layers
    assert graphs[-1] == graphs[2] <= 2
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_compiler_s_code_computes_again_what_it_has_computed(dropout, profile, varlen_on_a_cpu):
    """By inductor. Where dropout drew other masks the second time, gradients would not be the slopes."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    stages, options = (Stage(target=64, steps=1),), Model(compile=True, remat="selective")
    train = Train(stages=stages, model=options, z_loss=0.01, dropout=dropout)
    compiled, plain = training_model("tiny", profile, train).train(), model_with(profile)

    def loss(lengths):
        torch.manual_seed(7)
        ids = torch.arange(sum(lengths)) % 40
        return compiled(ids, ids.roll(-1), lengths).total

    for lengths in LENGTHS[:2]:
        compiled.zero_grad()
        loss(lengths).backward()
        gradients = [p.grad.clone() for p in compiled.parameters()]
        if not dropout:
            ((_, *expected),) = losses_and_gradients((plain,), lengths)
            for found, right in zip(gradients, expected, strict=True):
                torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-3)
        norm = torch.stack([g.norm() for g in gradients]).norm()
        ends = []
        for way in (1, -1):  # a step along the gradient, and back
            with torch.no_grad():
                for p, g in zip(compiled.parameters(), gradients, strict=True):
                    p += way * (1 + (way < 0)) * 0.01 * g / norm
            ends.append(float(loss(lengths).detach()))
        with torch.no_grad():
            for p, g in zip(compiled.parameters(), gradients, strict=True):
                p += 0.01 * g / norm
        assert (ends[0] - ends[1]) / 0.02 == pytest.approx(float(norm), rel=0.02)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    varlen_on_a_cpu.clear()
    loss(LENGTHS[0]).backward()
    assert varlen_on_a_cpu == {"forward": 3, "backward": 3}


def test_selected_layers_whose_attention_is_left_out_run_as_they_are(profile, monkeypatch):
    """SDPA by groups: what a checkpoint holds is compiled whole or not at all."""
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, compiled = model_with(profile), model_with(profile, compile=True, remat="selective")
    for lengths in LENGTHS:
        for one, other in zip(*losses_and_gradients((plain, compiled), lengths), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
    assert not counters["stats"]["unique_graphs"]


def test_drawing_and_evaluation_compile_nothing(profile, monkeypatch):
    """Each has its own kinds of inputs, and so many graphs more that dynamo's limit would be met."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = model_with(profile, compile=True)
    ids = torch.arange(60) % 40
    compiled(ids, ids.roll(-1), [33, 27]).total.backward()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert before > 0
    with torch.no_grad():
        compiled.eval()(ids, ids.roll(-1), [40, 20])
        with own_attention(compiled.lm):
            Sampler(compiled.lm, profile).sample([[0, 30, 16]], [(64, 64)], cfg=2.0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


def test_what_cannot_go_together_is_refused():
    with pytest.raises(ValueError, match=r"takes deepspeed: \{zero: 0\}, 1 or 2, not 3"):
        Train(stages=(Stage(target=64, steps=1),), model=Model(compile=True), deepspeed=DeepSpeed(zero=3))
