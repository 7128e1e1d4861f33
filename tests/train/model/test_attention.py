import importlib
import importlib.util
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from rasterloom.train.model import attention
from rasterloom.train.model.attention import Segments, _groups, kernel_for, packed_attention

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.sampled_from([(4, 4), (4, 2)]))
def test_each_sequence_sees_itself_and_nothing_else(lengths, heads):
    torch.manual_seed(0)
    q_heads, kv_heads = heads
    q, k, v = (torch.randn(1, h, sum(lengths), 8, requires_grad=True) for h in (q_heads, kv_heads, kv_heads))
    segments = Segments(lengths, CPU)
    out, _ = packed_attention(torch.nn.Identity(), q, k, v, None, segments=segments, scaling=0.3)
    expected = one_by_one(q, k, v, lengths)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    ours = torch.autograd.grad((out * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def one_by_one(q, k, v, lengths):
    parts = [
        scaled_dot_product_attention(a, b, c, is_causal=True, scale=0.3, enable_gqa=True).transpose(1, 2)
        for a, b, c in zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
    ]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("lengths", [[5], [100, 95, 90, 60, 58, 3], [7, 7, 7]])
def test_groups_hold_similar_lengths(lengths):
    groups = list(_groups(lengths))
    assert [n for _, group in groups for n in group] == lengths
    assert [start for start, _ in groups] == [sum(sum(g) for _, g in groups[:i]) for i in range(len(groups))]
    assert all(max(group) <= 1.15 * min(group) for _, group in groups)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_segments_say_where_sequences_lie(lengths):
    segments = Segments(lengths, CPU)
    assert segments.bounds.dtype == torch.int32
    bounds = segments.bounds.tolist()
    assert bounds[0] == 0
    assert [b - a for a, b in itertools.pairwise(bounds)] == lengths
    assert segments.longest == max(lengths)
    assert segments.positions().tolist() == [i for n in lengths for i in range(n)]


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "installed", "kernel"),
    [
        (CPU, torch.bfloat16, None, {"flash_attn"}, "sdpa"),
        (GPU, torch.float32, (9, 0), {"flash_attn"}, "sdpa"),
        (GPU, torch.bfloat16, (7, 5), {"flash_attn"}, "sdpa"),
        (GPU, torch.bfloat16, (9, 0), {"flash_attn_interface", "flash_attn"}, "flash_attn_3"),
        (GPU, torch.bfloat16, (8, 0), {"flash_attn_interface", "flash_attn"}, "flash_attn"),
        (GPU, torch.bfloat16, (8, 0), {"flash_attn", "torch.nn.attention.varlen"}, "flash_attn"),
        (GPU, torch.bfloat16, (9, 0), {"torch.nn.attention.varlen"}, "torch_varlen"),
        (GPU, torch.float16, (9, 0), set(), "sdpa"),
    ],
)
def test_the_kernel_follows_from_device_and_numbers(
    device, dtype, capability, installed, kernel, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(attention, "find_spec", lambda name: name in installed)
    assert kernel_for.__wrapped__(device, dtype) == kernel


def test_torch_takes_what_its_kernel_is_called_with(monkeypatch):
    """On the meta device its operator has shapes and no numbers."""
    assert importlib.util.find_spec("torch.nn.attention.varlen")
    monkeypatch.setattr(attention, "kernel_for", lambda *_: "torch_varlen")
    q, k, v = (torch.empty(1, h, 13, 8, device="meta", dtype=torch.bfloat16) for h in (4, 2, 2))
    segments = Segments([7, 5, 1], torch.device("meta"))
    out, _ = packed_attention(torch.nn.Identity(), q, k, v, None, segments=segments, scaling=0.3)
    assert out.shape == (1, 13, 4, 8)


def test_the_kernel_for_ragged_batches_is_given_the_bounds_of_sequences(monkeypatch):
    """Its operator has numbers on GPUs alone; here a plain one of the same signature stands under it."""
    importlib.import_module("torch.nn.attention.varlen")
    torch.manual_seed(0)
    lengths = [7, 5, 1]
    q, k, v = (torch.randn(1, h, 13, 8) for h in (4, 2, 2))

    def operator(q, k, v, q_bounds, k_bounds, q_longest, k_longest, causal, scale, window, gqa, *_):
        assert (causal, window, gqa, q_longest, k_longest) == (True, [-1, 0], True, 7, 7)
        assert q_bounds.tolist() == k_bounds.tolist() == [0, 7, 12, 13]
        assert scale == 0.3
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return one_by_one(q, k, v, q_bounds.diff().tolist())[0], None, None

    monkeypatch.setattr(torch.ops.torch_attn, "_varlen_attn", operator)
    monkeypatch.setattr(attention, "kernel_for", lambda *_: "torch_varlen")
    segments = Segments(lengths, CPU)
    out, _ = packed_attention(torch.nn.Identity(), q, k, v, None, segments=segments, scaling=0.3)
    torch.testing.assert_close(out, one_by_one(q, k, v, lengths))
