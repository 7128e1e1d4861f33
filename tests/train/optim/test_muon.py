import copy

import numpy as np
import pytest
import torch

from rasterloom.train.model.packed_lm import PackedLM, build_model
from rasterloom.train.optim.deepspeed_engine import parameter_groups, split_matrices
from rasterloom.train.optim.muon import RMS_OF_ADAMW, Muon, orthogonal


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 40), (2, 40, 16)])
def test_all_singular_values_become_about_one(shape):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    spread = torch.logspace(-1.5, 0, u.shape[2])  # singular values, the least a 30th of the largest
    found = orthogonal(u * spread @ v)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.4 and values.max() < 1.3
    # The directions stay: the nearest orthogonal matrix is u v.
    assert torch.nn.functional.cosine_similarity(found.flatten(1), (u @ v).flatten(1)).min() > 0.95


def test_matrices_of_the_layers_take_muons_step_and_the_rest_adamws(profile):
    torch.manual_seed(0)
    model = PackedLM(build_model("tiny", profile))
    twin = copy.deepcopy(model)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
    groups = split_matrices(model, parameter_groups(model, 0.1))
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    matrices = {id(p) for g in groups if g["muon"] for p in g["params"]}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    Muon(groups, lr=0.01, betas=(0.9, 0.95)).step()
    torch.optim.AdamW(parameter_groups(twin, 0.1), lr=0.01, betas=(0.9, 0.95)).step()
    other = dict(twin.named_parameters())
    for name, p in model.named_parameters():
        assert (id(p) in matrices) == ("_proj" in name), name
        if id(p) in matrices:
            step = (p - before[name] * (1 - 0.01 * 0.1)).detach()
            assert np.sqrt(step.square().mean()) == pytest.approx(RMS_OF_ADAMW * 0.01, rel=0.25), name
        else:
            torch.testing.assert_close(p, other[name], msg=name)


def test_a_convolution_is_a_matrix_of_outputs_by_all_else():
    torch.manual_seed(0)
    kernel = torch.randn(8, 4, 3, 3)
    matrix = kernel.flatten(1).clone()
    kernel.grad = torch.randn_like(kernel)
    matrix.grad = kernel.grad.flatten(1).clone()
    for weight in (kernel, matrix):
        Muon([{"params": [weight], "muon": True}], lr=0.01).step()
    torch.testing.assert_close(kernel.flatten(1), matrix)
