"""Choice of a row's caption, and the sequence with it."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from rasterloom.recipe.captions import ALT
from rasterloom.recipe.train import Train
from rasterloom.train.data.token_dataset import TokenSample
from rasterloom.utils.random_streams import stream_share

Weights = Mapping[str, float]
Chosen = tuple[str, TokenSample]
"""Name of a caption, and the sample with it."""


def draw_caption(sample: TokenSample, key: str, train: Train, *, part: int, a_pass: int) -> Chosen:
    """Draw the caption of a row in a pass, by weights.

    Args:
        key: of the row.
        train: section of the stage (`Train.of_stage`), with ``captions``.
        part: number of the row's part of the stage, from 0.
        a_pass: number of the pass over the part, from 0.
    """
    weights = train.captions or {}
    names = [name for name, _ in sample.captions] or [ALT]
    often = Counter(names)
    shares = np.cumsum([weights.get(name, 0.0) / often[name] for name in names])
    if not shares[-1]:  # none of those that are drawn from
        return names[0], sample
    seed, stage = train.seed, train.stage_number
    share = stream_share("caption", seed=seed, stage=stage, part=part, pass_=a_pass, key=key)
    return _with_caption(sample, names, int(np.searchsorted(shares, share * shares[-1], side="right")))


def fixed_caption(sample: TokenSample, weights: Weights) -> Chosen:
    """Choose the caption of a held-out row: of those that it has, the first of the greatest weight."""
    names = [name for name, _ in sample.captions] or [ALT]
    of_names = [weights.get(name, 0.0) for name in names]
    return _with_caption(sample, names, of_names.index(max(of_names)))


def _with_caption(sample: TokenSample, names: list[str], number: int) -> Chosen:
    ids = sample.captions[number][1] if sample.captions else ()
    if not len(ids):  # the one that it was made with
        return names[number], sample
    begins = int(sample.loss_spans[0][0])
    moved = np.int32(len(ids) - begins)
    changed = np.concatenate([np.asarray(ids, np.int32), sample.input_ids[begins:]])
    return names[number], TokenSample(changed, sample.loss_spans + moved)
