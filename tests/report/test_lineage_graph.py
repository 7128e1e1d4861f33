from rasterloom.report.lineage_graph import depths, lineage, nearest_parents


def test_steps_are_found_with_their_snapshots(workspace, tables) -> None:
    snapshots = workspace.inputs().snapshots
    found = {m.record.step: m for m in lineage(tables, workspace.records)}
    assert [m.record for m in found.values()] == workspace.records
    for name in ("pairs", "images", "scores", "selection"):
        assert (found[name].table, found[name].snapshot_id) == (name, snapshots[name])
        assert found[name].when is not None
    assert found["tokens/128"].snapshot_id == snapshots["tokens"]
    assert found["tokens/64"].snapshot_id not in (None, snapshots["tokens"])  # an ancestor of it
    assert found["codes/64"].table is None


def test_depths_and_nearest_parents(workspace, tables) -> None:
    steps = lineage(tables, workspace.records)
    assert depths(steps) == {
        "pairs": 0, "images": 1, "scores": 2, "selection": 3,
        "codes/64": 4, "codes/128": 4, "tokens/64": 5, "tokens/128": 5,
    }  # fmt: skip
    nearest = nearest_parents(steps)
    assert nearest["selection"] == ["scores"]  # images follow from scores
    assert nearest["codes/128"] == ["selection"]
    assert nearest["pairs"] == []
