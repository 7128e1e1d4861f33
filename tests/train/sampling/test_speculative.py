"""Codes that are drawn several a pass have the distribution of those that are drawn one by one."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from rasterloom.train.model.packed_lm import build_model
from rasterloom.train.sampling.sampler import Sampler
from rasterloom.train.sampling.speculative import Window

PROMPT, SIZE = [0, 30, 31, 16], (32, 32)


@pytest.fixture
def sampler(profile):
    torch.manual_seed(0)
    model = build_model("tiny", profile)
    with torch.no_grad():  # a head far from uniform
        model.lm_head.weight.mul_(20)
    return Sampler(model.eval(), profile)


@pytest.mark.parametrize("window", [2, 3, 8, 100])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_likeliest_codes_are_those_of_one_by_one(sampler, window, cfg):
    sizes = [(96, 32), (32, 64), (64, 64)]
    prompts = [PROMPT, [*PROMPT[:2], 16], PROMPT]
    plain = sampler.sample(prompts, sizes, cfg=cfg, top_k=1)
    before, told = sampler.passes, []
    sampler.window = window
    found = sampler.sample(prompts, sizes, cfg=cfg, top_k=1, on_tokens=lambda *at: told.append(at))
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    total = sum(one.size for one in plain)
    assert told[-1] == (total, total)
    tokens = sum(h * (w + 1) - 1 for h, w in (one.shape for one in plain))
    assert sampler.passes - before < tokens  # ends of lines are never waited for


def test_an_image_depends_on_seed_and_number_alone(sampler):
    options = {"cfg": 2.0, "top_k": 50, "temperature": 5.0}
    sampler.window = 6
    together = sampler.sample([PROMPT] * 3, [(64, 32), SIZE, (64, 32)], **options)
    sampler.first = 2
    alone = sampler.sample([PROMPT], [(64, 32)], **options)
    np.testing.assert_array_equal(alone[0], together[2])
    assert not np.array_equal(together[0], together[2])


def table_of(rng, codes, places):
    """A model of few codes: of each sequence so far the probabilities of the next."""
    sequences = (s for n in range(places) for s in itertools.product(range(codes), repeat=n))
    return {s: rng.dirichlet(np.full(codes, 0.6)) for s in sequences}


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("script", [[-1, -1, -1, -1], [-1, -1, 7, -1, -1]])
def test_the_distribution_is_that_of_the_model(width, script):
    """Chi-square of 4,000 draws against the exact probability of each of 81 outcomes."""
    rng = np.random.default_rng(len(script) * 10 + width)
    free = np.array(script) < 0
    table = table_of(rng, 3, int(free.sum()))
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(4000):
        codes = drawn(Window(np.array(script), rng), table, width)
        counts[codes] = counts.get(codes, 0) + 1
    outcomes = list(itertools.product(range(3), repeat=int(free.sum())))
    exact = [np.prod([table[s[:n]][s[n]] for n in range(len(s))]) for s in outcomes]
    likely = [n for n, p in enumerate(exact) if p * 4000 >= 5]
    rest = 4000 - sum(counts.get(outcomes[n], 0) for n in likely)
    seen = [*(counts.get(outcomes[n], 0) for n in likely), rest]
    expected = [*(exact[n] * 4000 for n in likely), 4000 * (1 - sum(exact[n] for n in likely))]
    assert chisquare(seen, expected).pvalue > 1e-3


def drawn(window, table, width):
    """Draw by a table in the place of a model."""
    places = len(window.script)
    known = 0  # places that the last pass saw the codes of
    while True:
        rows = []
        for place in range(window.at, known + 1):
            if window.is_code(place):
                so_far = tuple(int(window.codes[one]) for one in range(place) if window.is_code(one))
                rows.append(table[so_far])
            else:
                rows.append(np.zeros(3))
        window.settle(np.array(rows))
        if window.at == places:
            return tuple(int(code) for code in window.codes[window.script < 0])
        known = min(window.at - 1 + width, places - 1)
        window.guess(known)


def test_the_distribution_through_a_model_is_that_of_one_by_one(sampler):
    """The first and the last code of 600 images of two by two, with guidance, of three codes each."""
    options = {"cfg": 1.5, "top_k": 3, "temperature": 2.0}
    plain = sampler.sample([PROMPT] * 1200, [SIZE] * 1200, seed=1, **options)
    sampler.window = 4
    found = sampler.sample([PROMPT] * 600, [SIZE] * 600, seed=2, **options)
    for place in ((0, 0), (0, -1), (-1, -1)):
        codes, counts = np.unique([one[place] for one in plain], return_counts=True)
        seen = np.array([sum(one[place] == code for one in found) for code in codes])
        assert seen.sum() >= 570
        pooled = (counts + seen) / 1800
        likely = pooled * 600 >= 5
        sums = [np.append(x[likely], x[~likely].sum() + 1e-9) for x in (seen, pooled * seen.sum())]
        variance = 1.5  # of both samples, the larger one of twice as many
        statistic = ((sums[0] - sums[1]) ** 2 / (sums[1] * variance)).sum()
        assert statistic < 40, (place, statistic, likely.sum())
