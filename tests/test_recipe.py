import pytest

from rasterloom.errors import RecipeError
from rasterloom.recipe.loader import load_recipe

GOOD = """
corpus: demo
sources: [{path: pairs.parquet}]
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_paths_are_taken_from_the_recipes_folder(write, tmp_path):
    recipe = load_recipe(write(GOOD))
    assert recipe.sources[0].path == str(tmp_path / "pairs.parquet")
    assert recipe.workspace == str(tmp_path / "work")
    remote = load_recipe(write(GOOD + "workspace: s3://bucket/prefix\ncatalog: {type: glue}"))
    assert remote.workspace == "s3://bucket/prefix"
    with pytest.raises(RecipeError, match=r"catalog: required with a workspace on S3"):
        load_recipe(write(GOOD + "workspace: s3://bucket/prefix"))


def test_every_path_of_a_source_is_taken_from_there(write, tmp_path):
    text = (
        "corpus: demo\nsources: [{path: [a.csv, s3://b/c.csv]}, {path: hf://o/n}, {path: x.json, root: pics}]"
    )
    several, hub, conversations = load_recipe(write(text)).sources
    assert several.paths == (str(tmp_path / "a.csv"), "s3://b/c.csv")
    assert hub.path == "hf://o/n" and hub.root == ""
    assert conversations.root == str(tmp_path / "pics")


def test_weights_of_a_scorer_are_found_beside_the_recipe(write, tmp_path):
    (tmp_path / "head.pth").touch()
    recipe = load_recipe(write(GOOD + "score: [{aesthetic: {head: head.pth, clip: openai/clip}}]"))
    assert recipe.score[0].options == {"head": str(tmp_path / "head.pth"), "clip": "openai/clip"}
    for name in ("cat", "v1", "model"):
        (tmp_path / name).mkdir()
    given = {"model": "model", "label": "cat", "column": "cat", "revision": "v1"}
    recipe = load_recipe(write(GOOD + f"score: [{{classify: {given}}}]"))
    assert recipe.score[0].options == given | {"model": str(tmp_path / "model")}, "a folder called as a label"


def test_short_forms(write):
    recipe = load_recipe(
        write(GOOD + "score: [quality, {aesthetic: {head: x.pth}}]\nkeep: a > 1\ndedup: {phash_radius: 2}")
    )
    assert [(s.name, s.options) for s in recipe.score] == [("quality", {}), ("aesthetic", {"head": "x.pth"})]
    assert recipe.keep.rule == "a > 1"
    assert recipe.keep.dedup.phash_radius == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("corpus: [", ["not YAML"]),
        ("just words", ["holds no recipe"]),
        (GOOD + "fetch: {max_sides: 3}", ["fetch.max_sides", "did you mean max_side?"]),
        (GOOD + "fetsh: {}", ["fetsh", "did you mean fetch?"]),
        (GOOD + "fetch: {max_side: wide}", ["fetch.max_side: takes a whole number (got 'wide')"]),
        (GOOD + "fetch: {max_side: 3}", ["fetch.max_side: takes 32 or more (got 3)"]),
        (GOOD + "tokenize: {codec: jpeg}", ["tokenize.codec", "'jpeg'", "mini"]),
        (GOOD + "tokenize: {codec: chameleon}", ["tokenize: weights: required", "Meta's vqgan.ckpt", "hub"]),
        (GOOD + "tokenize: {codec: movq}", ["tokenize: weights: required, as movq brings none"]),
        (GOOD + "tokenize: {precision: bf16}", ["tokenize: precision: bf16 is for codecs with weights"]),
        (GOOD + "tokenize: {precision: fp16}", ["tokenize.precision", "'fp32', 'tf32' or 'bf16'", "'fp16'"]),
        (GOOD + "tokenize: {targets: [500]}", ["tokenize.targets", "multiple of 32", "500"]),
        (GOOD + "tokenize: {targets: [64, 64]}", ["tokenize.targets", "twice"]),
        (GOOD + "train: {stages: [{steps: 1}]}", ["train.stages[0]: give either target or mixture"]),
        (
            GOOD + "train: {stages: [{target: 512, steps: 1, mixture: [{target: 64}]}]}",
            ["train.stages[0]: give either target or mixture"],
        ),
        (
            GOOD + "train: {stages: [{steps: 1, corpus: a@b, mixture: [{target: 64}]}]}",
            ["train.stages[0]: corpus: with a mixture, each of its parts names its own"],
        ),
        (
            GOOD + "train: {stages: [{steps: 1, mixture: [{target: 64, weight: 1}, {target: 96}]}]}",
            ["train.stages[0]: mixture: give a weight to every part, or to none"],
        ),
        (
            GOOD + "train: {stages: [{target: 512, steps: 1, corpus: clipart}]}",
            ["train.stages[0].corpus", "name@tag", "clipart"],
        ),
        (
            GOOD + "train: {stages: [{target: 512, steps: 1, tokens: 5}]}",
            ["train.stages[0]: give one of epochs, steps and tokens"],
        ),
        (
            GOOD + "train: {stages: [{target: 512, steps: 1, schedule: constant, min_lr: 0}]}",
            ["train.stages[0]: min_lr: a constant schedule has none; take cosine, linear or wsd"],
        ),
        (
            GOOD + "train: {stages: [{target: 512, steps: 1, schedule: cosine, decay_steps: 5}]}",
            ["train.stages[0]: decay_steps: it is of schedule: wsd alone"],
        ),
        (
            GOOD + "train: {stages: [{target: 512, steps: 1, min_lr: 1}]}",
            ["train.stages[0]: min_lr: 1 is above lr, 2e-05"],
        ),
        (
            GOOD + "train: {stages: [{target: 512, steps: 1, optimizer_state: keep}]}",
            ["train.stages[0].optimizer_state: keep takes a stage before it"],
        ),
        (GOOD + "train: {stages: [{target: 512}]}", ["train.stages[0]", "one of epochs, steps and tokens"]),
        (GOOD + "train: {stages: [{target: 512, rate: 3}]}", ["train.stages[0].rate", "no such field"]),
        (
            GOOD + "train: {optimizer: muon, deepspeed: {zero: 3}, stages: [{target: 512, steps: 1}]}",
            ["train: optimizer muon takes deepspeed: {zero: 0}, 1 or 2, as it needs whole matrices"],
        ),
        (
            GOOD + "train: {optimizer: muon, deepspeed: {offload: cpu}, stages: [{target: 512, steps: 1}]}",
            ["train: optimizer muon takes no deepspeed: {offload: cpu}"],
        ),
        (
            GOOD + "train: {ema: {decay: 1}, stages: [{target: 512, steps: 1}]}",
            ["train.ema.decay: takes less than 1 (got 1)"],
        ),
        (
            GOOD + "train: {stages: [{target: 512, steps: 1}]}\nsample: {ema: true}",
            ["sample.ema: there is no average of weights; set train.ema"],
        ),
        (
            GOOD + "train: {profile: {steps: [12, 10]}, stages: [{target: 512, steps: 1}]}",
            ["train.profile.steps: takes the first and the last step, such as [10, 12], not [12, 10]"],
        ),
        (
            GOOD
            + "train: {optimizer: muon, deepspeed: {zero: 0, bf16: true}, stages: [{target: 512, steps: 1}]}",
            ["train.deepspeed: bf16 takes zero 1, 2 or 3"],
        ),
        (GOOD + "run: {train_workers: {min: 3, max: 2}}", ["run.train_workers: max 2 is smaller than min 3"]),
        (GOOD + "run: {train_workers: 0}", ["run.train_workers", "takes 1 or more (got 0)"]),
        (
            GOOD
            + "train: {stages: [{target: 512, steps: 1, freeze: [head]},"
            + " {target: 512, steps: 1, optimizer_state: keep}]}",
            ["train.stages[1].optimizer_state: keep takes the same freeze as the stage before it"],
        ),
        ("corpus: demo", ["sources", "required"]),
        ("corpus: demo\nsources: [{path: 3}]", ["sources[0].path: takes a path or a list of paths, not 3"]),
        ("corpus: demo\nsources: [{path: []}]", ["sources[0].path", "a list of paths, not []"]),
        ("corpus: demo\nsources: [{path: a, weight: -1}]", ["sources[0].weight", "above 0", "not -1"]),
        (
            "corpus: demo\nsources: [{path: a, weight: heavy}]",
            ["sources[0].weight", "{column: NAME}", "'heavy'"],
        ),
        (
            "corpus: demo\nsources: [{path: a, licence: {col: x}}]",
            ["sources[0].licence: takes {column: NAME}"],
        ),
        ("corpus: demo\nsources: [{path: a, kind: exel}]", ["sources[0].kind", "'exel'", "webdataset"]),
        ("corpus: Not a name\nsources: [{path: a}]", ["corpus", "Not a name"]),
    ],
)
def test_an_error_names_the_field_and_what_it_takes(write, text, words):
    with pytest.raises(RecipeError) as error:
        load_recipe(write(text))
    message = str(error.value)
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


def test_each_wrong_field_has_its_own_line(write):
    with pytest.raises(RecipeError) as error:
        load_recipe(write(GOOD + "fetch: {max_side: 3, deadline_s: -1}"))
    assert len(str(error.value).splitlines()) == 2


def test_a_missing_file(tmp_path):
    with pytest.raises(RecipeError, match=r"no recipe at .*nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_the_opt_out_list_is_part_of_what_images_are(tmp_path):
    from rasterloom.pipelines.corpus.steps import corpus_steps

    (tmp_path / "pairs.csv").write_text("url,caption\nhttp://a.test/1.jpg,one\n")
    recipe = tmp_path / "recipe.yaml"
    text = "corpus: demo\nsources: [{path: pairs.csv}]\n"

    def fingerprint(fetch=""):
        recipe.write_text(text + fetch)
        (images,) = (step for step in corpus_steps(load_recipe(recipe)) if step.name == "images")
        return images.fingerprint

    without = fingerprint()
    with pytest.raises(RecipeError, match=r"fetch\.opt_out: .*optout\.txt cannot be read"):
        fingerprint("fetch: {opt_out: optout.txt}")
    (tmp_path / "optout.txt").write_text("example.org\n")
    first = fingerprint("fetch: {opt_out: optout.txt}")
    (tmp_path / "optout.txt").write_text("example.org\nexample.com\n")
    second = fingerprint("fetch: {opt_out: optout.txt}")
    assert len({without, first, second}) == 3


def test_img2dataset_cannot_check_md5(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("corpus: demo\nsources: [{path: a.csv}]\nfetch: {engine: img2dataset, md5: md5}\n")
    with pytest.raises(RecipeError, match=r"fetch: engine img2dataset computes SHA-256 only"):
        load_recipe(path)


def test_weights_are_a_path_from_the_recipes_folder_or_an_id_on_the_hub(tmp_path):
    def weights_of(value):
        path = tmp_path / "recipe.yaml"
        path.write_text(GOOD + f"tokenize: {{codec: chameleon, weights: {value}}}")
        return load_recipe(path).tokenize.weights

    assert weights_of("facebook/chameleon-7b@main") == "facebook/chameleon-7b@main"
    assert weights_of("weights/vqgan.ckpt") == str(tmp_path / "weights" / "vqgan.ckpt")
    (tmp_path / "facebook" / "chameleon-7b").mkdir(parents=True)
    assert weights_of("facebook/chameleon-7b") == str(tmp_path / "facebook" / "chameleon-7b")


def test_a_checkpoint_to_start_from_is_found_beside_the_recipe(write, tmp_path):
    (tmp_path / "model").mkdir()
    for init, found in (("./model", str(tmp_path / "model")), ("tiny", "tiny")):
        text = GOOD + f"train: {{init: {init}, stages: [{{target: 512, steps: 1}}]}}"
        assert load_recipe(write(text)).train.init == found


def test_what_yaml_takes_for_something_else_is_what_it_says(write):
    stages = "[{target: 512, tokens: 2.0e9, batch_tokens: 1e5}]"
    train = load_recipe(write(GOOD + f"train: {{stages: {stages}, guard: {{on: skip}}}}")).train
    assert (train.stages[0].tokens, train.stages[0].batch_tokens, train.guard.on) == (
        2 * 10**9,
        10**5,
        "skip",
    )
    with pytest.raises(RecipeError, match=r"tokens: takes a whole number .got 2.5"):
        load_recipe(write(GOOD + "train: {stages: [{target: 512, tokens: 25.0e-1}]}"))


def test_a_stage_sees_what_it_sets_for_itself(write):
    mixed = "{mixture: [{target: 512}, {target: 768}], tokens: 5, z_loss: 0, dropout: 0}"
    stages = f"[{{target: 512, steps: 1}}, {mixed}]"
    train = load_recipe(write(GOOD + f"train: {{weight_decay: 0.2, stages: {stages}}}")).train
    first, second = train.of_stage(0), train.of_stage(1)
    assert (first.dropout, first.z_loss, first.weight_decay) == (0.05, 1e-5, 0.2)
    assert (second.dropout, second.z_loss, second.weight_decay) == (0, 0, 0.2)
    assert first.stages == train.stages[:1] and second.stages == train.stages[1:]
    assert [stage.label for stage in train.stages] == ["512", "512-768"]
    assert [part.target for part in train.stages[1].parts] == [512, 768]
