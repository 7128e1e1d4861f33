"""Reports and training runs by their records."""

from dataclasses import replace
from pathlib import Path

from made_workspace import Workspace

from rasterloom.schema import StepKind
from rasterloom.serve import overview


def test_reports_are_found_by_their_records_and_by_nothing_else(tmp_path: Path) -> None:
    corpus = Workspace(tmp_path).corpus
    made = replace(Workspace(tmp_path / "other").record("report"), fingerprint="f" * 20)
    for number, fingerprint in enumerate(("a" * 20, "b" * 20)):
        one = replace(
            made, fingerprint=fingerprint, finished=f"2026-05-0{number + 1}T12:00:00+00:00", takedowns=number
        )
        corpus.store.put(corpus.layout.record("report", fingerprint), one.to_json())
        corpus.store.put(f"{corpus.layout.files('report', fingerprint)}/index.html", fingerprint.encode())
    corpus.store.put(f"{corpus.layout.files('report', 'c' * 20)}/index.html", b"of a run that was cut off")
    assert [record.fingerprint[0] for record in overview.reports(corpus)] == ["b", "a"]
    assert overview.report(corpus, "a" * 20) == b"a" * 20
    for other in ("c" * 20, "last", "..", "../" + "a" * 20, "a", "", "/etc/passwd"):
        assert overview.report(corpus, other) is None
    corpus.store.put(corpus.layout.takedown(1), b"{}")
    assert [record.fingerprint[0] for record in overview.reports(corpus)] == ["b"], (
        "the other shows what is gone"
    )
    assert overview.report(corpus, "a" * 20) is None


def test_the_latest_run_comes_first(tmp_path: Path) -> None:
    made = Workspace(tmp_path)
    for number, name in enumerate(("1-64", "2-128")):
        _, folder = made.train(name)
        record = replace(made.records[-1], finished=f"2026-05-0{number + 1}T12:00:00+00:00")
        place = Path(made.corpus.store.path(made.corpus.layout.files(record.step, record.fingerprint)))
        place.parent.mkdir(parents=True)
        folder.rename(place)
        made.corpus.store.put(made.corpus.layout.record(record.step, record.fingerprint), record.to_json())
    found = overview.runs(made.corpus)
    assert [run.record.step for run in found] == [StepKind.TRAIN.step("2-128"), StepKind.TRAIN.step("1-64")]
    assert all(run.stage.last_step == 60 and "<svg" in run.chart for run in found)
