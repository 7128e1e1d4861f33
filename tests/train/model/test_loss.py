import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from rasterloom.train.model.loss import LossHead, token_losses


@pytest.mark.parametrize("chunk", [1, 7 * 11, 10**9])
def test_loss_and_gradients_are_those_of_a_plain_loop(chunk):
    torch.manual_seed(0)
    n, d, vocab, z_weight = 23, 8, 11, 0.01
    weight = torch.randn(vocab, d, requires_grad=True)
    hidden = torch.randn(n, d, requires_grad=True)
    targets = torch.randint(0, vocab, (n,))

    losses = token_losses(hidden, weight, targets, z_loss=z_weight, chunk_elements=chunk)
    (losses.total / n).backward()
    ours = [losses.nll.numpy(), hidden.grad.numpy(), weight.grad.numpy()]

    w, x = weight.detach().double().numpy(), hidden.detach().double().numpy()
    nll, grad_x, grad_w = np.zeros(n), np.zeros_like(x), np.zeros_like(w)
    for i in range(n):
        logits = w @ x[i]
        log_sum = np.log(np.exp(logits).sum())
        p = np.exp(logits - log_sum)
        nll[i] = log_sum - logits[targets[i]]
        by_logit = (p - np.eye(vocab)[targets[i]] + z_weight * 2 * log_sum * p) / n
        grad_x[i] = by_logit @ w
        grad_w += np.outer(by_logit, x[i])
    for one, other in zip(ours, (nll, grad_x, grad_w), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 40),
    d=st.integers(1, 9),
    vocab=st.integers(1, 30),
    chunk=st.integers(1, 400),
    z_weight=st.sampled_from([0.0, 1e-5, 0.3]),
    scale=st.floats(0.01, 30),
    seed=st.integers(0, 10**6),
)
def test_in_double_precision_it_equals_plain_torch(n, d, vocab, chunk, z_weight, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).mul_(scale).requires_grad_()
        for shape in ((n, d), (vocab, d))
    )
    targets = torch.randint(0, vocab, (n,), generator=generator)

    losses = token_losses(hidden, weight, targets, z_loss=z_weight, chunk_elements=chunk)
    ours = torch.autograd.grad(losses.total * 0.7, (hidden, weight))

    logits = hidden @ weight.T
    z = logits.logsumexp(-1).square()
    plain = cross_entropy(logits, targets, reduction="sum") + z_weight * z.sum()
    theirs = torch.autograd.grad(plain * 0.7, (hidden, weight))

    exact = {"rtol": 1e-10, "atol": 1e-10 * scale**4}
    torch.testing.assert_close(losses.total, plain, **exact)
    torch.testing.assert_close(losses.z, z, **exact)
    torch.testing.assert_close(losses.nll, cross_entropy(logits, targets, reduction="none"), **exact)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **exact)


def test_the_logits_of_all_tokens_are_never_held_at_once(monkeypatch):
    seen = []
    whole = torch.Tensor.logsumexp

    def logsumexp(logits, *args, **kwargs):
        seen.append(len(logits))
        return whole(logits, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "logsumexp", logsumexp)
    hidden, weight = torch.zeros(50, 4, requires_grad=True), torch.zeros(1000, 4, requires_grad=True)
    token_losses(hidden, weight, torch.zeros(50, dtype=torch.long), chunk_elements=16_000).total.backward()
    assert seen == [16, 16, 16, 2]


def test_no_tokens_have_a_gradient_of_zero():
    weight = torch.ones(5, 4, requires_grad=True)
    losses = token_losses(torch.zeros(0, 4), weight, torch.zeros(0, dtype=torch.long), z_loss=0.1)
    losses.total.backward()
    assert losses.total == 0
    assert weight.grad.abs().sum() == 0


def test_a_frozen_head_gets_no_gradient_and_its_input_does():
    head = LossHead.of(torch.nn.Linear(4, 5, bias=False).requires_grad_(False))
    hidden = torch.randn(3, 4, requires_grad=True)
    head(hidden, torch.tensor([0, 1, 2])).total.backward()
    assert head.weight.grad is None
    assert hidden.grad.abs().sum() > 0


def test_gradients_of_bf16_are_summed_in_fp32():
    """A sum of a thousand must not stop growing, as it does in bf16 after 256 equal ones."""
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.ones(1000, 1, dtype=torch.bfloat16)
    targets = torch.zeros(1000, dtype=torch.long)
    token_losses(hidden, weight, targets, chunk_elements=2).total.backward()  # a token a chunk
    assert weight.grad.dtype == torch.bfloat16
    assert weight.grad[:, 0].tolist() == [-500.0, 500.0]


def test_without_targets_the_head_gives_logits():
    plain = torch.nn.Linear(4, 5, bias=False)
    hidden = torch.randn(2, 3, 4)
    assert torch.equal(LossHead.of(plain)(hidden), plain(hidden))
