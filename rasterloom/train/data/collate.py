"""Collation: held-out split, dropped prompts, packed sequences, loss mask."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rasterloom.recipe.train import Train
from rasterloom.schema import Profile
from rasterloom.train.data.token_dataset import TokenSample
from rasterloom.utils.random_streams import stream_share

IGNORE = -100  # a target that does not count


class Packed(NamedTuple):
    """Sequences one after the other, longest first."""

    input_ids: NDArray[np.int64]  # [tokens]
    targets: NDArray[np.int64]  # [tokens]: the next token where it counts in the loss, else IGNORE
    lengths: list[int]  # tokens of each sequence
    order: list[int]  # which of the samples given each sequence is
    cells: NDArray[np.int64]  # [targets that count]: the cell of each, see `groups`
    row_cells: NDArray[np.int64]  # [sequences]


def heldout_draw(image: str) -> float:
    """Return the share from which on an image is held out.

    It depends on the image alone, and counts for all its rows.

    A larger share so holds out the same images and more.

    Args:
        image: identity of the image (`pipelines.corpus.image_groups`), or the key of a row without any.
    """
    return stream_share("heldout", image=image)


def is_dropped(key: str, train: Train, *, part: int, a_pass: int) -> bool:
    """Tell whether a row comes without its prompt in this pass.

    Args:
        key: of the row.
        train: section of the stage (`Train.of_stage`).
        part: number of the row's part of the stage, from 0.
        a_pass: number of the pass over the part, from 0.
    """
    seed, stage = train.seed, train.stage_number
    return stream_share("prompt", seed=seed, stage=stage, part=part, pass_=a_pass, key=key) < train.cfg_drop


def drop_context(sample: TokenSample, profile: Profile) -> TokenSample:
    """Leave boi .. eoi, all of it in the loss: the context that guidance samples without.

    As in Lumina-mGPT 2.0 a sample is left alone unless it has exactly one image and that is its answer.

    Raises:
        ValueError: the profile asks for a policy that is not known.
    """
    if profile.drop != "context":
        raise ValueError(f"profile {profile.name!r}: unknown drop policy {profile.drop!r}; known: context")
    ids = sample.input_ids
    ends = np.flatnonzero(ids == profile.eoi)
    begins = np.flatnonzero(ids == profile.boi)
    if len(ends) != 1 or len(begins) != 1 or not len(sample.loss_spans):
        return sample
    begin, end = int(begins[0]), int(ends[0]) + 1
    start, stop = sample.loss_spans[-1]
    if start != begin or stop not in (end, end + 1):  # after eoi comes a separator, or nothing
        return sample
    return TokenSample(ids[begin:end], np.array([[0, end - begin]], dtype=np.int32))


def pack(samples: Iterable[TokenSample], cells: ArrayLike | None = None) -> Packed:
    """Concatenate samples, longest first.

    Of no samples at all it makes one token that does not count, so that a rank without rows can take part.

    Args:
        cells: the cell of each sample, see `groups.Groups`; all 0 if they are not told apart.
    """
    samples = list(samples)
    if not samples:
        none = np.zeros(0, np.int64)
        return Packed(np.zeros(1, np.int64), np.full(1, IGNORE, np.int64), [1], [], none, none)
    of_sample = np.asarray([0] * len(samples) if cells is None else cells, np.int64)
    lengths = [len(sample.input_ids) for sample in samples]
    order = sorted(range(len(samples)), key=lambda i: -lengths[i])
    targets = [_targets(samples[i]) for i in order]
    return Packed(
        input_ids=np.concatenate([samples[i].input_ids for i in order]).astype(np.int64),
        targets=np.concatenate(targets),
        lengths=[lengths[i] for i in order],
        order=order,
        cells=np.repeat(of_sample[order], [np.count_nonzero(t != IGNORE) for t in targets]),
        row_cells=of_sample[order],
    )


def _targets(sample: TokenSample) -> NDArray[np.int64]:
    """The token after each, where that one is in the loss."""
    targets = np.full(len(sample.input_ids), IGNORE, dtype=np.int64)
    for start, end in sample.loss_spans.tolist():
        start = max(start, 1)  # nothing comes before the first token to predict it from
        targets[start - 1 : end - 1] = sample.input_ids[start:end]
    return targets
