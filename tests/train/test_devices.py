"""Precision of a machine's processors."""

import pytest

from rasterloom.recipe.train import DeepSpeed, Stage, Train
from rasterloom.train import devices
from rasterloom.train.devices import has_bf16, with_precision


def train_in(bf16):
    return Train(stages=(Stage(target=64, steps=1),), deepspeed=DeepSpeed(zero=1, bf16=bf16))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_bf16 avx512vl", True),
        ("fpu amx_bf16 avx512_bf16", True),
        ("fpu avx2 avx512f avx512vl", False),
        ("fpu xavx512_bf16x", False),
    ],
)
def test_auto_is_what_the_cpu_has_units_for(flags, expected, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(
        f"processor : 0\nflags\t\t: {flags}\n\nprocessor : 1\nflags\t\t: {flags}\n"
    )
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "cpuinfo")
    assert has_bf16(use_gpu=False) is expected
    assert with_precision(train_in("auto"), use_gpu=False) == train_in(expected)


def test_a_system_that_does_not_tell_computes_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "none")
    assert not has_bf16(use_gpu=False)


@pytest.mark.parametrize("bf16", [True, False])
def test_what_the_recipe_says_stays(bf16):
    train = train_in(bf16)
    assert with_precision(train, use_gpu=False) is train


@pytest.mark.parametrize(
    ("use_gpu", "zero", "expected"), [(True, 2, True), (True, 0, False), (False, 2, False)]
)
def test_by_itself_a_gpu_computes_in_bf16_and_a_cpu_does_not(use_gpu, zero, expected, monkeypatch):
    monkeypatch.setattr(devices, "has_bf16", lambda *, use_gpu: True)
    train = Train(stages=(Stage(target=64, steps=1),), deepspeed=DeepSpeed(zero=zero))
    assert with_precision(train, use_gpu=use_gpu).deepspeed.bf16 is expected


def test_an_old_gpu_computes_in_float32(monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: [devices.Gpu("Tesla T4", 2**34, bf16=False)])
    assert with_precision(train_in(None), use_gpu=True).deepspeed.bf16 is False


def test_stages_trained_when_false_was_the_default_keep_their_identity():
    assert DeepSpeed().model_dump(mode="json") == DeepSpeed(bf16=False).model_dump(mode="json")


def test_auto_needs_sharding_as_bf16_does():
    with pytest.raises(ValueError, match="bf16 takes zero 1, 2 or 3"):
        DeepSpeed(zero=0, bf16="auto")
