import json
from pathlib import Path

from PIL import Image

from rasterloom.report.training_runs import STRIP, Skill, read_drawings, read_samples, read_stage


def write(folder: Path, name: str, *rows: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows))


def test_a_step_that_was_measured_twice_counts_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        "metrics.jsonl",
        *({"step": s, "loss": v, "tokens": 8} for s, v in ((1, 5), (2, 4), (2, 3.5), (3, 3))),
    )
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 4, "lo')  # killed while writing
    stage = read_stage("64", tmp_path)
    assert stage is not None
    assert stage.series("loss") == [(1, 5), (2, 3.5), (3, 3)]
    assert stage.total("tokens") == 24 and stage.last_step == 3
    assert stage.last("loss", over=2) == 3.25
    assert stage.last("nothing") is None


def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path, "metrics.jsonl", {"step": 1, "loss": float("nan")}, {"step": 2, "loss": 2}, {"loss": 1}, 7
    )
    stage = read_stage("64", tmp_path)
    assert stage is not None
    assert stage.series("loss") == [(2, 2)]


def test_steps_that_were_not_measured_count(tmp_path: Path) -> None:
    write(tmp_path, "metrics.jsonl", *({"step": s, "loss": 2} for s in (50, 100)))
    stage = read_stage("64", tmp_path)
    assert stage is not None and stage.last_step == 100


def test_heldout_losses_as_the_stage_began_and_ended(tmp_path: Path) -> None:
    losses = {"loss": 2.5, "tokens": 100, "rows": 3}
    end = {"all": losses, "buckets": {"64x64": losses, "32x96": {"tokens": 0, "rows": 0}}}
    write(tmp_path, "heldout.json", {"start": {"all": {"loss": 7.0}}, "end": end})
    stage = read_stage("64", tmp_path)
    assert stage is not None
    assert stage.heldout_loss == 2.5
    assert stage.heldout_buckets == {"64x64": 2.5}
    assert stage.before == {"all": {"loss": 7.0}}


def test_heldout_losses_of_one_moment(tmp_path: Path) -> None:
    write(tmp_path, "heldout.json", {"buckets": {"64x64": {"loss": 3}}, "loss": 3.5})
    stage = read_stage("64", tmp_path)
    assert stage is not None
    assert (stage.heldout_loss, stage.heldout_buckets) == (3.5, {"64x64": 3})


def test_a_folder_without_either_is_no_stage(tmp_path: Path) -> None:
    assert read_stage("64", tmp_path) is None
    assert read_stage("64", tmp_path / "nowhere") is None


def test_samples_are_grouped_by_prompt(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (64, 32 * (i + 1))).save(tmp_path / f"{i}.png")
    listed = [{"file": f"{i}.png", "prompt": p} for i, p in enumerate(("a", "b", "a"))]
    skills = {
        "colour": {"right": 58, "asked": 60, "low": 0.88, "high": 0.99},
        "size": {"right": 1, "asked": 0, "low": 0, "high": 1},
        "all": {"right": 57, "asked": 60, "low": 0.86, "high": 0.98},
    }
    found = {
        "images": [*listed, {"file": "missing.png", "prompt": "c"}],
        "suite": {
            "skills": skills,
            "seeds": 4,
            "best": {"right": 14, "asked": 15, "low": 0.7, "high": 0.99},
        },
        "best_of": {"n": 8, "judge": "scene"},
    }
    write(tmp_path, "samples.json", found | {"rows_line_up": None, "cfg": 3.0})
    samples = read_samples(tmp_path)
    assert samples is not None
    assert [(p, [i.height for i in images]) for p, images in samples.prompts] == [
        ("a", [32, 96]),
        ("b", [64]),
    ]
    assert samples.checks == (("all right", "57 of 60"),)
    assert samples.skills == (
        Skill("colour", 58, 60, 0.88, 0.99),
        Skill("all", 57, 60, 0.86, 0.98),
        Skill("all, best of 4", 14, 15, 0.7, 0.99),
    )
    assert (samples.settings, samples.grid) == ("guidance 3.0, best of 8 by the judge scene", None)


def test_the_grid_stands_in_for_images_that_are_not_listed(tmp_path: Path) -> None:
    assert read_samples(tmp_path) is None
    Image.new("RGB", (64, 64)).save(tmp_path / "grid.png")
    samples = read_samples(tmp_path)
    assert samples is not None
    assert samples.grid is not None
    assert samples.prompts == ()


def test_a_suite_alone_is_shown_and_neither_is_nothing(tmp_path: Path) -> None:
    write(tmp_path, "samples.json", {"grid": None, "images": [], "suite": None, "cfg": 3.0})
    assert read_samples(tmp_path) is None
    skills = {"all": {"right": 57, "asked": 60, "low": 0.86, "high": 0.98}}
    write(tmp_path, "samples.json", {"grid": None, "images": [], "suite": {"skills": skills}})
    samples = read_samples(tmp_path)
    assert samples is not None
    assert [skill.name for skill in samples.skills] == ["all"]


def test_an_image_outside_of_the_folder_is_not_shown(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    write(tmp_path / "samples", "samples.json", {"images": [{"file": "../secret.png", "prompt": "a"}]})
    assert read_samples(tmp_path / "samples") is None


def test_drawings_of_some_steps_evenly_the_first_and_the_last_among_them(tmp_path: Path) -> None:
    for step in range(10, 310, 10):
        write(tmp_path, f"step-{step:08d}.json", {"step": step, "prompts": ["a", "b"]})
        for number in (0, 1):
            Image.new("RGB", (32, 32)).save(tmp_path / f"step-{step:08d}-{number}.png")
    write(tmp_path, "step-00000310.json", {"step": 310, "prompts": ["a", "b"]})  # not decoded yet
    drawings = read_drawings(tmp_path)
    assert drawings is not None
    assert len(drawings.steps) == STRIP and (drawings.steps[0], drawings.steps[-1]) == (10, 300)
    gaps = [b - a for a, b in zip(drawings.steps, drawings.steps[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 10
    assert [(prompt, len(pictures)) for prompt, pictures in drawings.prompts] == [("a", STRIP), ("b", STRIP)]
    assert read_drawings(tmp_path / "nowhere") is None


def test_losses_by_task_and_on_the_way(tmp_path: Path) -> None:
    losses = {"loss": 2.5, "tokens": 100, "rows": 3}
    end = {"all": losses, "tasks": {"t2i": losses, "edit": losses | {"loss": None}}, "buckets": {}}
    write(
        tmp_path,
        "heldout.json",
        {
            "start": {"all": {"loss": 7.0}},
            "end": end,
            "steps": {"0": {"all": {"loss": 7.0}}, "10": end, "x": 3},
        },
    )
    stage = read_stage("64", tmp_path)
    assert stage is not None
    assert stage.tasks == ({"all": {"loss": 7.0}}, {"all": losses, "t2i": losses})
    assert stage.heldout_curve == ((0, 7.0), (10, 2.5))
    assert stage.evaluation is None and stage.drawings is None
