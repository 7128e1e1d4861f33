import pytest

from rasterloom.train.estimate.flops import mfu, peak_flops, train_flops
from rasterloom.train.model.shapes import SIZES


def test_a_short_sequence_takes_six_operations_a_weight():
    shape = SIZES["7b"]
    one = train_flops(shape, tokens=1, squares=1, loss_tokens=1)
    weights = shape.params - shape.head_params  # the embedding is looked up, not multiplied
    assert one == pytest.approx(6 * weights, rel=1e-3)


def test_attention_is_counted_as_the_loop_over_positions_would():
    shape, lengths = SIZES["tiny"], [5, 3]
    per_key = 2 * 2 * shape.head_width * shape.heads * shape.layers  # query by key, weight by value
    pairs = sum(n * n / 2 for n in lengths)
    expected = 3 * per_key * pairs
    with_attention = train_flops(shape, tokens=8, squares=34, loss_tokens=0)
    assert with_attention - train_flops(shape, tokens=8, squares=0, loss_tokens=0) == expected


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce GTX 1080", None),
        ("Intel Xeon", None),
    ],
)
def test_devices_are_known_by_what_the_driver_calls_them(name, peak):
    assert peak_flops(name) == peak


def test_mfu():
    two = ["NVIDIA A100-SXM4-80GB"] * 2
    assert mfu(624e12 * 3 * 0.4, 3.0, two) == pytest.approx(0.4)
    assert mfu(1.0, 1.0, ["a CPU"]) is None
    assert mfu(1.0, 0.0, two) is None
