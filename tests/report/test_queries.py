import pyarrow as pa
import pytest

from rasterloom.report import queries
from rasterloom.report.queries import Level, Loss, Tables


def test_the_funnel_adds_up_and_names_every_reason(tables, workspace) -> None:
    levels = queries.funnel(tables, workspace.records)
    assert [(level.name, level.rows) for level in levels] == [
        ("pairs", 60), ("fetched", 54), ("kept", 47), ("tokens at 64", 47), ("tokens at 128", 47)
    ]  # fmt: skip
    for level in levels:
        assert level.given == level.rows + sum(loss.rows for loss in level.losses)
    fetched, kept = ({loss.reason: loss.rows for loss in level.losses} for level in levels[1:3])
    assert fetched == {"http_4xx": 3, "dns": 1, "timeout": 1, "blocked_scheme": 1}
    assert kept == {"rule: quality < 9": 5, "duplicate": 2}
    assert levels[1].losses[0] == Loss("http_4xx", 3, "refused or gone")


def test_rows_that_nothing_explains_are_shown_as_such(workspace, make_workspace, some_items) -> None:
    other = make_workspace()
    other.fill(some_items[:50], targets=[64])
    kept = [item for item in some_items[:50] if item.reason == "kept"]
    inputs = other.inputs()
    other.fill(some_items[:45], targets=[64])  # now tokens are of fewer images
    mixed = inputs.snapshots | {"tokens": other.inputs().snapshots["tokens"]}
    with Tables(other.corpus, mixed) as tables:
        level = queries.funnel(tables, other.records)[-1]
    assert level == Level("tokens at 64", 45, len(kept), (Loss("not tokenised", len(kept) - 45),))


def test_images_without_tokens_are_lost_for_the_reason_in_the_record(make_workspace, some_items) -> None:
    other = make_workspace()
    other.fill(some_items, targets=[])
    other._tokens(some_items[:45], 64)
    other.records[:] = [r for r in other.records if not r.step.startswith("codes")]
    other.record("codes/64", counts={"64x64": 45, "failed: too_thin": 2})
    with other.tables() as tables:
        assert queries.funnel(tables, other.records)[-1] == Level(
            "tokens at 64", 45, 47, (Loss("too_thin", 2),)
        )


def test_the_page_speaks_of_the_given_snapshots_not_of_the_current_ones(make_workspace, some_items) -> None:
    other = make_workspace()
    other.fill(some_items, targets=[])
    before = other.inputs().snapshots
    other.fill(some_items[:30], targets=[])
    now = other.inputs().snapshots
    for snapshots, rows in ((before, [60, 54, 47]), (now, [30, 30, 30])):
        with Tables(other.corpus, snapshots) as tables:
            assert [level.rows for level in queries.funnel(tables, ())] == rows


def test_histograms_hold_every_fetched_image_once(tables) -> None:
    found = {h.name: h for h in queries.histograms(tables)}
    assert set(found) == {"short side (px)", "quality", "flatness"}
    for histogram in found.values():
        assert sum(histogram.kept) == 47
        assert sum(histogram.dropped) == 7
        assert histogram.unscored == 0
    quality = found["quality"]
    assert (quality.low, quality.high) == (3, 9.5)
    assert quality.dropped[-1] == 5  # the poor ones, all at 9.5
    assert quality.kept[0] == 7  # 3, of 46 items that go from 3 to 9


def test_values_that_are_no_numbers_are_counted_apart(make_workspace, some_items) -> None:
    other = make_workspace()
    other.fill(some_items, targets=[])
    keys = [item.key for item in some_items if item.image]
    schema = pa.schema([("key", pa.string()), ("shard", pa.int32()), ("clip", pa.float64())])
    values = [None, float("nan"), float("inf"), *([0.3] * (len(keys) - 3))]
    rows = pa.table([keys, [0] * len(keys), values], schema=schema)
    other.publish("scores2", "scores", schema, [rows])
    with other.tables() as tables:
        clip = next(h for h in queries.histograms(tables) if h.name == "clip")
    assert clip.unscored == 3
    assert sum(clip.kept) + sum(clip.dropped) == len(keys) - 3


def test_buckets_and_tokens_count_the_same_rows(tables) -> None:
    buckets, tokens = queries.buckets(tables), queries.token_counts(tables)
    assert list(buckets) == [64, 128]
    for row in tokens:
        found = buckets[row["target"]]
        assert sum(b["sequences"] for b in found) == row["sequences"] == 47
        assert sorted(found, key=lambda b: -b["w"] / b["h"]) == found
        assert row["shortest"] <= row["middle"] <= row["longest"]
        assert row["buckets"] == len(found)


def test_an_empty_workspace_has_nothing_to_say(make_workspace) -> None:
    with make_workspace().tables() as empty:
        assert queries.funnel(empty, ()) == []
        assert queries.histograms(empty) == []
        assert queries.buckets(empty) == {}
        assert queries.token_counts(empty) == []


@pytest.mark.parametrize("lacking", [None, 0, 1])
def test_files_of_earlier_versions_may_lack_columns(make_workspace, lacking) -> None:
    """Footers are held for files of different columns alone, whichever comes first."""
    corpus = make_workspace().corpus
    rows = pa.table({"key": ["a", "b"], "status": ["ok", "ok"], "task": ["t2i", "edit"]})
    names = [f"images/{number}.parquet" for number in range(2)]
    for number, name in enumerate(names):
        corpus.store.write_parquet(name, rows.drop_columns(["task"]) if number == lacking else rows)
    with Tables(corpus, {}) as tables:
        tables.data["images"] = corpus.dataset(names)
        found = tables.sql("SELECT task, count(*) AS rows FROM images GROUP BY ALL ORDER BY ALL")
        (view,) = tables.sql("SELECT sql FROM duckdb_views() WHERE view_name = 'images'")
    counted = {row["task"]: row["rows"] for row in found}
    assert counted == ({"t2i": 2, "edit": 2} if lacking is None else {"t2i": 1, "edit": 1, None: 2})
    assert ("union_by_name = true" in str(view["sql"]).lower()) == (lacking is not None)


def test_quantiles_of_many_are_of_a_sample_and_counts_of_all(workspace, tables, monkeypatch) -> None:
    whole = queries.histograms(tables)
    monkeypatch.setattr(queries, "SAMPLE", 5)  # of 60: every twelfth
    with workspace.tables() as some:
        found, of_sample = queries.histograms(some), queries.quantiles(some)
        (rows,) = some.sql(
            """
            SELECT count(*) AS rows, count_if(sampled) AS sampled,
              quantile_cont(x1, [0.1, 0.5, 0.9]) FILTER (kept AND sampled) AS quality FROM measured
            """
        )
    assert rows["rows"] == 54 and 0 < rows["sampled"] < 54
    assert [(h.name, sum(h.kept), sum(h.dropped)) for h in found] == [
        (h.name, sum(h.kept), sum(h.dropped)) for h in whole
    ]
    assert of_sample["quality"] == tuple(rows["quality"])
