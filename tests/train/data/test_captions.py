"""Choice of the caption that a row is trained with."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist

from rasterloom.recipe.train import Stage, Train
from rasterloom.schema import CAPTIONED_TOKENS
from rasterloom.train.data.captions import draw_caption, fixed_caption
from rasterloom.train.data.dataloader import open_loader
from rasterloom.train.data.groups import Groups
from rasterloom.train.data.token_dataset import TokenSample
from rasterloom.train.job import StageJob

NO_IDS = np.zeros(0, np.int32)


def train(weights, stage=0):
    section = Train(stages=({"target": 64, "steps": 1},) * 2, captions=weights).of_stage(stage)
    return section


def sample(*names):
    """Prompt 1 2, answer 9 8 7. The prompt of the n-th caption is n+1 times 10 + n."""
    captions = [(name, np.full(n + 1, 10 + n, np.int32) if n else NO_IDS) for n, name in enumerate(names)]
    return TokenSample(np.array([1, 2, 9, 8, 7], np.int32), np.array([[2, 5]], np.int32), tuple(captions))


def drawn(weights, names=("alt", "long", "short"), keys=4000, **fields):
    fields = {"part": 0, "a_pass": 0} | fields
    return [draw_caption(sample(*names), f"{n:x}", train(weights), **fields)[0] for n in range(keys)]


def test_captions_come_by_their_weights():
    counts = Counter(drawn({"alt": 0.2, "long": 0.5, "short": 0.3}))
    for name, share in {"alt": 0.2, "long": 0.5, "short": 0.3}.items():
        assert abs(counts[name] - 4000 * share) < 5 * (4000 * share * (1 - share)) ** 0.5


def test_weights_are_those_of_the_captions_that_a_row_has():
    assert set(drawn({"alt": 1, "long": 3}, names=("alt", "short"), keys=200)) == {"alt"}
    assert set(drawn({"long": 3}, names=("alt", "short"), keys=200)) == {"alt"}, "none of them: its own"
    counts = Counter(drawn({"alt": 1, "many": 1}, names=("alt", "many", "many", "many")))
    assert abs(counts["many"] - 2000) < 5 * 1000**0.5, "several of one name share its weight"


@pytest.mark.parametrize("field", ["part", "a_pass"])
def test_each_pass_and_part_draws_anew(field):
    weights = {"alt": 1, "long": 1}
    first, second = drawn(weights, keys=500), drawn(weights, keys=500, **{field: 1})
    assert 150 < sum(a != b for a, b in zip(first, second, strict=True)) < 350
    assert first == drawn(weights, keys=500)


def test_stages_draw_apart():
    sections = [train({"alt": 1, "long": 1}, stage) for stage in (0, 1)]
    one, two = (
        [draw_caption(sample("alt", "long"), f"{n:x}", section, part=0, a_pass=0)[0] for n in range(500)]
        for section in sections
    )
    assert 150 < sum(a != b for a, b in zip(one, two, strict=True)) < 350


def test_the_sequence_is_that_of_the_caption():
    name, found = draw_caption(sample("alt", "long"), "k", train({"long": 1}), part=0, a_pass=0)
    assert name == "long"
    assert found.input_ids.tolist() == [11, 11, 9, 8, 7]
    name, found = draw_caption(sample("alt", "long", "short"), "k", train({"short": 1}), part=0, a_pass=0)
    assert (found.input_ids.tolist(), found.loss_spans.tolist()) == ([12, 12, 12, 9, 8, 7], [[3, 6]])
    assert found.input_ids.dtype == np.int32 and found.loss_spans.dtype == np.int32


def test_held_out_rows_have_a_fixed_caption():
    weights = {"alt": 0.2, "long": 0.5, "short": 0.3}
    assert fixed_caption(sample("alt", "long", "short"), weights)[0] == "long"
    assert fixed_caption(sample("alt", "short"), weights)[0] == "short"
    assert fixed_caption(sample("long"), weights)[0] == "long"
    assert fixed_caption(sample(), weights)[0] == "alt"
    assert fixed_caption(sample("alt", "long"), {"alt": 1, "long": 1})[0] == "alt"


@pytest.fixture
def captioned(write_tokens, profile):
    """Token rows of which all but every fifth have other captions, with the prompts of a few lengths."""
    path = write_tokens(60)
    rows = pq.read_table(path).to_pylist()
    for number, row in enumerate(rows):
        row["captions"] = row["longest"] = None
        if number % 5:
            long = [profile.bos, *[profile.text0 + 12] * (7 + number % 3), profile.sep]
            short = [profile.bos, profile.text0 + 13, profile.sep]
            row["captions"] = [
                {"name": name, "ids": ids} for name, ids in (("alt", []), ("long", long), ("short", short))
            ]
            row["longest"] = len(long) + row["n_tokens"] - row["loss_spans"][0]
    pq.write_table(pa.Table.from_pylist(rows, CAPTIONED_TOKENS), path, row_group_size=7)
    return path, rows


def job_of(profile, path, weights, **more):
    stage = Stage(target=64, epochs=3, batch_tokens=200)
    section = Train(stages=(stage,), heldout=0.1, cfg_drop=0.2, captions=weights, **more)
    return StageJob(stage, section, profile, (path,), None, "1", "tiny", "unused")


def sequences(loader, monkeypatch, world, start=0):
    """The sequences of each global batch, sorted, whichever rank has them."""
    monkeypatch.setattr(dist, "get_world_size", lambda: world)
    by_rank = []
    for rank in range(world):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        by_rank.append(list(loader.batches(start)))
    found = []
    for parts in zip(*by_rank, strict=True):
        batch, cells = [], Counter()
        for packed in (one for of_rank in parts for one in of_rank if one.order):
            ends = np.cumsum(packed.lengths)
            batch += [
                tuple(packed.input_ids[end - n : end]) for n, end in zip(packed.lengths, ends, strict=True)
            ]
            cells.update(packed.row_cells.tolist())
        found.append((sorted(batch), cells))
    return found


WEIGHTS = {"alt": 0.2, "long": 0.5, "short": 0.3}


def test_the_same_captions_come_at_any_world_size_and_after_a_resume(captioned, profile, monkeypatch):
    loader = open_loader(job_of(profile, captioned[0], WEIGHTS))
    alone = sequences(loader, monkeypatch, 1)
    for world in (2, 3):
        assert sequences(loader, monkeypatch, world) == alone
    assert sequences(loader, monkeypatch, 2, start=4) == alone[4:]
    again = open_loader(job_of(profile, captioned[0], WEIGHTS))
    assert sequences(again, monkeypatch, 1) == alone
    assert sequences(open_loader(job_of(profile, captioned[0], WEIGHTS, seed=1)), monkeypatch, 1) != alone


def test_batches_have_room_for_what_is_drawn_and_shares_are_counted(captioned, profile, monkeypatch):
    path, rows = captioned
    loader = open_loader(job_of(profile, path, WEIGHTS))
    groups = Groups.of(loader.rows)
    by_caption = Counter()
    for batch, cells in sequences(loader, monkeypatch, 1):
        assert sum(map(len, batch)) <= 200
        for cell, count in cells.items():
            by_caption[groups.captions[cell // (len(groups.tasks) * len(groups.buckets))]] += count
    assert set(by_caption) == {"alt", "long", "short", "none"}
    assert by_caption["long"] > by_caption["short"] > 0
    assert sum(by_caption.values()) == 3 * len(loader.trained)
    assert loader.rows.lengths.tolist() == [row["longest"] or row["n_tokens"] for row in rows]


def test_without_weights_rows_are_as_they_were_made(captioned, profile, write_tokens, monkeypatch):
    plain = sequences(open_loader(job_of(profile, captioned[0], None)), monkeypatch, 1)
    of_alt = {tuple(row["input_ids"]) for row in captioned[1]}
    assert all(one in of_alt or one[0] == profile.boi for batch, _ in plain for one in batch)


def test_weights_without_captions_are_refused(write_tokens, profile):
    with pytest.raises(ValueError, match=r"train\.captions: the tokens have no captions"):
        open_loader(job_of(profile, write_tokens(20), WEIGHTS))
    open_loader(job_of(profile, write_tokens(20), {"alt": 1}))
