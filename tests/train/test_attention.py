import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from rasterloom.train.attention import _groups, packed_attention


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.sampled_from([(4, 4), (4, 2)]))
def test_each_sequence_sees_itself_and_nothing_else(lengths, heads):
    torch.manual_seed(0)
    q_heads, kv_heads = heads
    q, k, v = (torch.randn(1, h, sum(lengths), 8, requires_grad=True) for h in (q_heads, kv_heads, kv_heads))
    out, _ = packed_attention(torch.nn.Identity(), q, k, v, None, lengths=lengths, scaling=0.3)
    parts = [
        scaled_dot_product_attention(a, b, c, is_causal=True, scale=0.3, enable_gqa=True).transpose(1, 2)
        for a, b, c in zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
    ]
    expected = torch.cat(parts, dim=1)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    ours = torch.autograd.grad((out * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("lengths", [[5], [100, 95, 90, 60, 58, 3], [7, 7, 7]])
def test_groups_hold_similar_lengths(lengths):
    groups = list(_groups(lengths))
    assert [n for _, group in groups for n in group] == lengths
    assert [start for start, _ in groups] == [sum(sum(g) for _, g in groups[:i]) for i in range(len(groups))]
    assert all(max(group) <= 1.15 * min(group) for _, group in groups)
