"""What would run after a change, and that nothing else does."""

from rasterloom.pipelines.workflow import Workflow


def runs(workshop, until="tokens"):
    return {p.step.name: p.status.reason for p in Workflow(workshop.recipe).plan(until) if p.runs}


def test_everything_runs_once(undisturbed):
    assert runs(undisturbed) == {}
    printed = undisturbed.run("--until", "tokens")
    assert "7 steps, 0 ran now, 7 were done before" in printed


def test_a_new_rule_runs_selection_and_what_follows(undisturbed):
    changed = runs(undisturbed.write(keep="min_side >= 100"))
    undisturbed.write()
    assert list(changed) == ["selection", "text", "codes/64", "tokens/64"]
    assert changed["selection"] == "config changed: selection.rule min_side >= 64 -> min_side >= 100"
    assert changed["text"] == "input changed: selection"


def test_a_further_target_is_tokenised_without_fetching(undisturbed):
    more = undisturbed.write(targets="[64, 96]")
    try:
        assert list(runs(more)) == ["codes/96", "tokens/96"]
        more.run("--until", "tokens")
        rows = more.rows("tokens")
        assert {64, 96} <= {row["target"] for row in rows}  # other tests add targets to this corpus
        by_target = [sorted(r["key"] for r in rows if r["target"] == t) for t in (64, 96)]
        assert by_target[0] == by_target[1]
    finally:
        undisturbed.write()
    assert runs(undisturbed) == {}


def test_a_fetch_setting_is_explained(undisturbed):
    changed = runs(undisturbed.write(**{"max_side: 256": "max_side: 128"}))
    undisturbed.write()
    assert changed["images"] == "config changed: images.max_side 256 -> 128"
    assert changed["scores"] == "input changed: images"
    assert "pairs" not in changed


def test_changed_pairs_are_seen(undisturbed, tmp_path):
    """The content of a source is its identity, not its name or date."""
    folder, _ = undisturbed.site
    copy = tmp_path / "pairs-photos.parquet"
    copy.write_bytes((folder / "pairs-photos.parquet").read_bytes())
    same = undisturbed.write(**{f"{folder}/pairs-photos": f"{tmp_path}/pairs-photos"})
    first = runs(same)
    copy.write_bytes((folder / "pairs-scenes.parquet").read_bytes())
    second = runs(same)
    undisturbed.write()
    assert first == {}, "it only lies elsewhere"
    assert "content" in second["pairs"]
