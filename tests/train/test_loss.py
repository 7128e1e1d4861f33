import numpy as np
import pytest
import torch

from rasterloom.train.loss import token_losses


@pytest.mark.parametrize("chunk", [1, 7 * 11, 10**9])
def test_loss_and_gradients_are_those_of_a_plain_loop(chunk):
    torch.manual_seed(0)
    n, d, vocab, z_weight = 23, 8, 11, 0.01
    head = torch.nn.Linear(d, vocab, bias=False)
    hidden = torch.randn(n, d, requires_grad=True)
    targets = torch.randint(0, vocab, (n,))

    nll, z = token_losses(hidden, targets, head, vocab_size=vocab, chunk_elements=chunk)
    ((nll.sum() + z_weight * z.sum()) / n).backward()
    ours = [nll.detach().numpy(), hidden.grad.numpy(), head.weight.grad.numpy()]

    w, x = head.weight.detach().double().numpy(), hidden.detach().double().numpy()
    losses, grad_x, grad_w = np.zeros(n), np.zeros_like(x), np.zeros_like(w)
    for i in range(n):
        logits = w @ x[i]
        log_sum = np.log(np.exp(logits).sum())
        p = np.exp(logits - log_sum)
        losses[i] = log_sum - logits[targets[i]]
        by_logit = (p - np.eye(vocab)[targets[i]] + z_weight * 2 * log_sum * p) / n
        grad_x[i] = by_logit @ w
        grad_w += np.outer(by_logit, x[i])
    for one, other in zip(ours, (losses, grad_x, grad_w), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_logits_of_all_tokens_are_never_held_at_once():
    seen = []

    def head(hidden):
        seen.append(len(hidden))
        return hidden @ torch.ones(4, 1000)

    token_losses(
        torch.zeros(50, 4), torch.zeros(50, dtype=torch.long), head, vocab_size=1000, chunk_elements=16_000
    )
    assert max(seen) == 16
    assert sum(seen) == 50


def test_no_tokens_have_a_gradient_of_zero():
    head = torch.nn.Linear(4, 5, bias=False)
    nll, z = token_losses(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), head, vocab_size=5)
    (nll.sum() + z.sum()).backward()
    assert head.weight.grad.abs().sum() == 0
