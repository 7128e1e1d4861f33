"""The commands on tokens, as a user runs them, and that tokens do not depend on how they were made."""

import io
import json
import pickle
import re

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from rasterloom.pipelines.corpus import token_work
from rasterloom.pipelines.execution.ray_cluster import start_ray
from rasterloom.pipelines.execution.scheduler import run_on_ray
from rasterloom.pipelines.import_export.retokenize import steps_on_tables
from rasterloom.pipelines.progress.counts import ShardPlan
from rasterloom.pipelines.progress.prometheus import Metrics
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.status import inputs_of, output_files
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.run import Run
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.crop import apply_crop, plan_crop, seed_of
from rasterloom.tokenize.file_layout import order_of
from rasterloom.tokenize.profiles import CHAMELEON, MINI
from rasterloom.tokenize.unirep import frame, unframe


@pytest.fixture
def gone(undisturbed, tmp_path):
    """The undisturbed workshop's recipe, but for its sources, which are gone."""
    folder, _ = undisturbed.site
    text = undisturbed.recipe_file.read_text().replace(f"{folder}/pairs", "/nowhere/pairs")
    assert "/nowhere/" in text
    path = tmp_path / "gone.yaml"
    path.write_text(text)
    return path


def test_a_target_is_added_without_the_sources(rasterloom, gone, undisturbed):
    before = undisturbed.rows("tokens")
    assert rasterloom("run", gone)[0] == 2  # it would have to look at the sources
    code, out, _ = rasterloom("tokenize", gone, "--target", 128, "--dry-run")
    assert code == 0
    assert re.findall(r"(?m)^(\S+) +(run|skip)", out) == [
        ("text", "skip"),
        ("codes/128", "run"),
        ("tokens/128", "run"),
        ("lengths/128", "run"),
    ]
    assert undisturbed.rows("tokens") == before
    code, out, err = rasterloom("tokenize", gone, "--target", 128)
    assert code == 0, err
    assert "4 steps, 3 ran now" in out and "Add 128 to tokenize.targets" in out
    rows = undisturbed.rows("tokens")
    assert [row for row in rows if row["target"] != 128] == before
    keys = {target: {row["key"] for row in rows if row["target"] == target} for target in (64, 128)}
    assert keys[128] == keys[64]
    assert "4 steps, 0 ran now" in rasterloom("tokenize", gone, "--target", 128)[1]


def test_a_full_run_finds_the_same_steps(gone, undisturbed):
    by_tables = steps_on_tables(load_recipe(gone), (64,))
    by_recipe = {step.name: step.fingerprint for step in Workflow(undisturbed.recipe).until("lengths")}
    assert {step.name: step.fingerprint for step in by_tables}.items() <= by_recipe.items()


def test_what_cannot_be_tokenised_is_said(rasterloom, gone, tmp_path):
    code, _, err = rasterloom("tokenize", gone, "--target", 500)
    assert (code, err.strip()) == (2, "--target: a target is a multiple of 32 pixels; 500 is not")
    empty = tmp_path / "empty.yaml"
    empty.write_text("corpus: none\nsources: [{path: nowhere.parquet}]\n")
    code, _, err = rasterloom("tokenize", empty, "--target", 64)
    assert code == 2 and "the corpus none" in err and "has no images yet: rasterloom run" in err


def test_a_corpus_that_keeps_nothing_is_not_tokenised(rasterloom, workshop):
    recipe = workshop.write(keep="min_side >= 9999").recipe_file
    for command in (("run", recipe, "--until", "selection"), ("tokenize", recipe, "--target", 64)):
        code, _, err = rasterloom(*command)
        assert (code, err.startswith("selection: none of 77 rows is kept: rule: ")) == (4, True), err


def test_images_without_captions_are_no_sequences(rasterloom, tmp_path):
    (tmp_path / "photos").mkdir()
    for shade in (40, 90):
        Image.new("RGB", (64, 64), (shade, 9, 9)).save(tmp_path / "photos" / f"{shade}.png")
    recipe, source = tmp_path / "recipe.yaml", f"{{path: {tmp_path}/photos, caption: none}}"
    text = f"corpus: plain\nworkspace: {tmp_path}/work\nsources: [{source}]\ndedup: {{phash_radius: null}}\n"
    recipe.write_text(text)
    assert rasterloom("run", recipe, "--until", "selection")[0] == 0
    for _ in range(2):  # the step itself is done
        code, printed, err = rasterloom("tokenize", recipe, "--target", 64)
        assert (code, err) == (4, "codes/64: none of 2 rows became a sequence: caption: the row has none 2\n")
    assert "captions 2" not in printed


def test_a_row_is_shown_by_key_and_by_number(rasterloom, gone, undisturbed, tmp_path):
    files = sorted(
        undisturbed.corpus.files("tokens", where="target == 64"), key=lambda f: f.name.rsplit("/", 1)[1]
    )
    store = undisturbed.corpus.store
    rows = [row for file in files for row in pq.read_table(store.path(file.name)).to_pylist()]
    number = len(rows) // 2
    row = rows[number]
    code, by_number, err = rasterloom("tokens", "show", gone, number, "--target", 64)
    assert code == 0, err
    picture = tmp_path / "row.png"
    by_key = rasterloom("tokens", "show", gone, row["key"], "--target", 64, "--out", picture)[1]
    assert by_key.startswith(by_number)
    assert f"{row['key']}  target 64, {row['bucket']}, t2i, mini" in by_number
    lines = by_number.splitlines()
    assert sum(line.rstrip().endswith(" eol") for line in lines) == row["height"] // 8
    assert f"Generate an image of {row['width']}x{row['height']}" in by_number
    marked = [line for line in lines[2:] if line.startswith("┃")]
    assert "boi" in marked[0] and "sep" in marked[-1]

    width, height = row["width"], row["height"]
    pixels = np.asarray(Image.open(picture))[22 : 22 + height]
    start, end = row["loss_spans"]
    codes = unframe(row["input_ids"][start : end - 1], MINI)
    np.testing.assert_array_equal(pixels[:, width + 8 :], load_codec("mini").decode(codes[None])[0])
    (stored,) = undisturbed.corpus.read("images", ["image"], where=f"key == '{row['key']}'")[
        "image"
    ].to_pylist()
    with Image.open(io.BytesIO(stored)) as image:
        plan = plan_crop(image.size, bucket_sizes(64), seed=seed_of(row["key"]))
        np.testing.assert_array_equal(pixels[:, :width], np.asarray(apply_crop(image, plan)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("f" * 32,), "no row of target 64 has the key ffff"),
        (("",), "rows of target 64 have keys that begin with"),
        ((999999,), "there is no row 999999: target 64 has"),
        ((0, "--target", 512), "--target 512: the corpus little has tokens of 64"),
    ],
)
def test_a_row_that_is_not_there_is_said(rasterloom, gone, arguments, words):
    code, _, err = rasterloom("tokens", "show", gone, *arguments)
    assert code == 2 and words in err


def imported_rows(corpus, target):
    found = corpus.read("tokens", where=f"target == {target}").to_pylist()
    return {row["key"]: row for row in found}


def reference_sample(number, broken=False):
    codes = np.random.default_rng(number).integers(0, 8192, (32, 32))
    context, answer = [0, *range(20000, 20010 + number), 8710], [*frame(codes, CHAMELEON).tolist(), 8710]
    if broken:
        del answer[50]
    return {"token": context + answer, "label": [-100] * len(context) + answer, "id": number}


def test_a_record_of_the_reference_is_imported(rasterloom, tmp_path):
    entries = []
    (tmp_path / "files").mkdir()
    for number in range(7):
        sample = reference_sample(number, broken=number == 3)
        path = tmp_path / "files" / f"{number}.pkl"
        path.write_bytes(pickle.dumps(sample))
        entries.append({"file": str(path), "len": len(sample["token"]), "id": number})
    record = tmp_path / "record.json"
    record.write_text(json.dumps([*entries, entries[0]]))
    into = f"{tmp_path}/work/art"
    code, out, err = rasterloom("tokens", "import", record, "--profile", "chameleon", "--into", into)
    assert code == 0, err
    assert "6 samples imported" in out and "2 failed" in out
    assert "files/3.pkl: the frame at position 15: " in out
    assert "entry 7: files/0.pkl comes a second time" in out

    from rasterloom.pipelines.import_export.import_tokens import corpus_of

    corpus = corpus_of(into)
    rows = imported_rows(corpus, 512)
    assert sorted(row["n_tokens"] for row in rows.values()) == sorted(
        entry["len"] for entry in entries if entry["id"] != 3
    )
    assert {row["bucket"] for row in rows.values()} == {"512x512"}
    kept = [key for key, _ in sorted(rows.items(), key=lambda item: int(order_of([item[0]], 0)[0]))]
    assert corpus.read("tokens", ["key"])["key"].to_pylist() == kept

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("corpus: art\nworkspace: work\nsources: [{path: nowhere.parquet}]\n")
    code, out, err = rasterloom("tokens", "show", recipe, 2)
    assert code == 0, err
    assert "512x512, t2i, chameleon" in out and "ids 20000 20001" in out
    # Again, now into the recipe: it is done.
    assert (
        "6 samples imported"
        in rasterloom("tokens", "import", record, "--profile", "chameleon", "--into", recipe)[1]
    )


def test_what_cannot_be_imported_is_said(rasterloom, tmp_path, undisturbed, gone):
    record = tmp_path / "record.json"
    record.write_text("[]")
    options = ("--profile", "chameleon", "--into")
    for arguments, words in (
        ((tmp_path / "none.json", *options, f"{tmp_path}/w/art"), "cannot read the record"),
        ((record, *options, f"{tmp_path}/w/art"), "give --target"),
        ((record, *options, "art", "--target", 512), "--into art: takes a recipe"),
        ((record, *options, f"{tmp_path}/w/art", "--target", 500), "multiple of 32 pixels; 500 is not"),
        ((record, *options, gone, "--target", 64), "has tokens of its own at target 64: --replace"),
        ((record, "--profile", "mini", "--into", gone), "mini"),
    ):
        code, _, err = rasterloom("tokens", "import", *arguments)
        assert code == 2 and words in err, err


def test_packing_does_not_depend_on_how_codes_are_cut(undisturbed, monkeypatch):
    """Files of codes in another order and number, and packed more at once: the same files of tokens."""
    corpus = undisturbed.corpus
    codes = next(step for step in Workflow(undisturbed.recipe).until("tokens") if step.name == "codes/64")
    given = output_files(corpus, codes)
    assert len(given) > 3
    config = token_work.TokenizeAt(target=64, tokenize=undisturbed.recipe.tokenize)

    def packed(files, at_once):
        monkeypatch.setattr(token_work, "TOKENS_AT_ONCE", at_once)
        shards = token_work.plan_pack(corpus.store, {"codes/64": files}, config, rows_per_file=3)
        found = []
        for shard in shards:
            tables, counts = token_work.pack_tokens(corpus.store, shard.spec, config)
            tables = list(tables)
            assert counts["sequences"] == sum(len(table) for table in tables)
            found += tables
        return [table.to_pylist() for table in found], len(shards)

    one_by_one, most = packed(given, 1)
    together, fewest = packed(given[::-1], 10**9)
    assert one_by_one == together and fewest < most
    sizes = [len(table) for table in one_by_one]
    assert max(sizes) <= 3 and len(sizes) > len({table[0]["bucket"] for table in one_by_one})
    for table in one_by_one:
        order = order_of([row["key"] for row in table], 0)
        assert (np.diff(order.astype(float)) > 0).all()
    assert sorted(row["key"] for table in one_by_one for row in table) == sorted(
        row["key"] for row in undisturbed.rows("tokens") if row["target"] == 64
    )


def test_codes_do_not_depend_on_workers_nor_on_the_order_of_shards(undisturbed):
    """Run by Ray, one shard at a time or four, first to last or last to first: the same rows."""
    corpus = undisturbed.corpus
    steps = {step.name: step for step in Workflow(undisturbed.recipe).until("tokens")}
    codes, packed = steps["codes/64"], steps["tokens/64"]
    start_ray(Run(cpus=2))
    shards = codes.plan(corpus.store, inputs_of(corpus, codes), codes.config)
    assert len(shards) > 4
    made = []
    for name, in_flight, todo in (("one", 1, shards), ("four", 4, shards[::-1])):
        run, counted = Run(cpus=2, in_flight=in_flight), Metrics("little", name)
        quiet = Progress(Console(quiet=True))
        quiet.step_started(name)
        quiet.counted(ShardPlan(todo, [], 1, 0))
        results = list(run_on_ray(corpus.store, f"try/{name}", codes, todo, run, quiet, counted))
        files = sorted((result.shard, file) for result in results for file in result.data_files)
        rows = [row for _, file in files for row in pq.read_table(corpus.store.path(file.name)).to_pylist()]
        given, tokens = [file for _, file in files[::-1]], []
        for shard in packed.plan(corpus.store, {"codes/64": given}, packed.config):
            tables, _ = packed.work(corpus.store, shard.spec, packed.config)
            tokens += [table.to_pylist() for table in tables]
        made.append((rows, tokens))
    assert made[0] == made[1]
    for result in results:  # packing looks for ranges of the order within a bucket
        (file,) = result.data_files
        found = pq.read_table(corpus.store.path(file.name)).filter(pc.is_valid(pc.field("bucket")))
        places = list(zip(found["bucket"].to_pylist(), found["order"].to_pylist(), strict=True))
        assert places == sorted(places)
    assert [row for table in made[0][1] for row in table] == [
        row for row in undisturbed.rows("tokens") if row["target"] == 64
    ]
