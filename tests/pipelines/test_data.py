"""Tokens of a corpus as a data set for other trainers, read by PyTorch's and torchdata's data loaders."""

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from docblocks import blocks
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from rasterloom import data
from rasterloom.data import IGNORE, TokenDataset
from rasterloom.errors import RecipeError, VersionError


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(data, "WINDOW", 2)


@pytest.fixture
def dataset(undisturbed):
    def make(**options):
        return TokenDataset(undisturbed.recipe_file, target=64, **options)

    return make


@pytest.fixture(scope="module")
def table(undisturbed):
    """Every row of the table, by pyiceberg: its tokens, and those in the loss."""
    rows = undisturbed.corpus.read("tokens", ["target", "input_ids", "loss_spans"]).to_pylist()
    return Counter(
        (tuple(row["input_ids"]), tuple(labels_of(row["input_ids"], row["loss_spans"])))
        for row in rows
        if row["target"] == 64
    )


def labels_of(ids, spans):
    inside = {at for start, end in zip(spans[::2], spans[1::2], strict=True) for at in range(start, end)}
    return [token if at in inside and at else IGNORE for at, token in enumerate(ids)]


def as_rows(samples):
    return [(tuple(s["input_ids"].tolist()), tuple(s["labels"].tolist())) for s in samples]


def test_an_epoch_has_each_row_once_in_an_order_of_its_own(dataset, table):
    once = as_rows(dataset(epochs=1))
    assert Counter(once) == table and dataset().rows == sum(table.values()) > 20
    twice = as_rows(dataset(epochs=2))
    assert twice[: len(once)] == once and Counter(twice[len(once) :]) == table
    assert twice[len(once) :] != once != as_rows(dataset(epochs=1, seed=1))
    again = dataset(epochs=1)
    assert as_rows(again) == as_rows(again) == once


def test_rows_of_a_row_group_alone_are_shuffled_anew(dataset):
    made = dataset(epochs=2)
    made.rows = max(made._sizes)
    group = made._sizes.index(made.rows)
    made._places, made._sizes = [made._places[group]], [made.rows]
    rows = as_rows(made)
    assert made.rows >= 4 and Counter(rows[: made.rows]) == Counter(rows[made.rows :])
    assert rows[: made.rows] != rows[made.rows :]


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (3, 0), (2, 2)])
def test_ranks_and_workers_share_the_rows(dataset, table, world, workers):
    found, counts = Counter(), []
    for rank in range(world):
        made = DataLoader(dataset(epochs=1, rank=rank, world=world), batch_size=None, num_workers=workers)
        rows = as_rows(made)
        counts.append(len(rows))
        found.update(rows)
    assert found == table and max(counts) - min(counts) <= max(workers, 1)


@pytest.mark.parametrize("length", [None, 300])
def test_it_goes_on_where_it_was(dataset, length):
    made = dataset(rank=1, world=2, sequence_length=length)
    whole = list(itertools.islice(dataset(rank=1, world=2, sequence_length=length), 60))
    for taken in (0, 1, 7, 25, 41):
        made.load_state_dict(dataset(rank=1, world=2).state_dict())
        for _ in itertools.islice(made, taken):
            pass
        other = pickle.loads(pickle.dumps(dataset(rank=1, world=2, sequence_length=length)))
        other.load_state_dict(made.state_dict())
        for one, two in zip(itertools.islice(other, 15), whole[taken : taken + 15], strict=True):
            assert all(torch.equal(one[name], two[name]) for name in two)


@pytest.mark.filterwarnings("ignore:'set_vital'")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_goes_on_where_it_was(dataset, workers):
    def loader():
        return StatefulDataLoader(dataset(sequence_length=300), batch_size=2, num_workers=workers)

    whole = list(itertools.islice(loader(), 30))
    for taken in (1, 11):
        first, second = loader(), loader()
        for _ in itertools.islice(first, taken):
            pass
        second.load_state_dict(first.state_dict())
        for one, two in zip(itertools.islice(second, 12), whole[taken : taken + 12], strict=True):
            assert all(torch.equal(one[name], two[name]) for name in two)


def test_packed_rows_are_whole(dataset, table):
    pad = 7
    found = Counter()
    for sample in dataset(epochs=1, sequence_length=300, pad=pad):
        ids, labels, places = (sample[name].numpy() for name in ("input_ids", "labels", "position_ids"))
        assert len(ids) == len(labels) == len(places) == 300
        starts = [*np.flatnonzero(places == 0), 300]
        for start, end in itertools.pairwise(starts):
            assert (places[start:end] == np.arange(end - start)).all()
            row = tuple(ids[start:end].tolist()), tuple(labels[start:end].tolist())
            if end == 300 and row not in table:
                assert set(row[0]) == {pad} and set(row[1]) == {IGNORE}
            else:
                found[row] += 1
    assert found == table


def test_what_is_wrong_is_said(dataset, undisturbed):
    workspace = undisturbed.recipe.workspace
    assert TokenDataset(workspace, f"{undisturbed.corpus.name}@main", target=64).rows == dataset().rows
    with pytest.raises(VersionError, match="has no tokens of target 65; its targets: 64"):
        TokenDataset(workspace, target=65)
    with pytest.raises(VersionError, match="has no branch, tag or snapshot v9"):
        TokenDataset(workspace, f"{undisturbed.corpus.name}@v9", target=64)
    with pytest.raises(RecipeError, match=r"corpus nobody: .* has no such corpus; known: "):
        TokenDataset(workspace, "nobody", target=64)
    with pytest.raises(ValueError, match="there is no rank 2 of 2"):
        dataset(rank=2, world=2)
    with pytest.raises(ValueError, match=r"a row of \d+ tokens, but sequence_length is 10"):
        next(iter(dataset(sequence_length=10)))
    with pytest.raises(ValueError, match=r"rows are too few for 100000 readers"):
        next(iter(dataset(world=100_000)))
    with pytest.raises(ValueError, match="the state is of seed 0, but this data set has 3"):
        dataset(seed=3).load_state_dict(dataset().state_dict())
    with pytest.raises(ValueError, match="the state is of readers 1, but this data set has 2"):
        dataset(world=2).load_state_dict(dataset().state_dict())


def test_the_page_says_what_works(undisturbed, tmp_path, monkeypatch):
    _, block = (block for block in blocks() if block.page == "docs/python.md" and block.kind == "python")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").symlink_to(undisturbed.recipe.workspace)
    text = block.text.replace("demo@v1", f"{undisturbed.corpus.name}@main").replace("256", "64")
    given = {"rank": 0, "world": 1, "steps": 2}
    exec(compile(text, "docs/python.md", "exec"), given)
    assert given["inputs"].shape == given["targets"].shape == (4, 4095)
    assert (given["targets"] != IGNORE).sum() > 100
