"""A reader, a scorer, a judge and a codec of another installed package, from pairs to tokens."""

import json
import os
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from docblocks import blocks
from PIL import Image

from rasterloom.filtering.judges.registry import make_judges
from rasterloom.filtering.scorers.registry import make_scorers
from rasterloom.recipe.filtering import Score
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.sources import KINDS
from rasterloom.recipe.tokenize import CODECS
from rasterloom.sources.readers import built_in as readers
from rasterloom.sources.readers.registry import reader_of_kind
from rasterloom.tokenize.codecs import load as codecs
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.profiles import own_profile
from rasterloom.tokenize.sequence_parser import pieces
from rasterloom.versions.corpus import Corpus

MODULE, ENTRY_POINTS, RECIPE = (
    block.text for block in blocks() if block.page == "docs/extending.md" and block.kind in ("python", "text")
)
MODULE += '''

class NoCodec:
    """Lacks what a codec has."""


class OwnQuality(Redness):
    name = "quality"
'''
# As pyproject.toml has them in the docs, and some that are wrong.
ENTRY_POINTS = re.sub(r'\[project.entry-points."(.*)"\]', r"[\1]", ENTRY_POINTS).replace('"', "")
ENTRY_POINTS = re.sub(
    r"(\[rasterloom.readers\]\n)", r"\1broken = my_plugins_not_there:Reader\n", ENTRY_POINTS
)
ENTRY_POINTS = re.sub(r"(\[rasterloom.scorers\]\n)", r"\1quality = my_plugins:OwnQuality\n", ENTRY_POINTS)
ENTRY_POINTS = re.sub(r"(\[rasterloom.codecs\]\n)", r"\1wrong = my_plugins:NoCodec\n", ENTRY_POINTS)


class Room:
    """A folder with a recipe, and a folder in which wheels are installed."""

    def __init__(self, folder):
        self.folder, self.site = folder, folder / "site"

    def install(self, version, distribution="my-plugins"):
        """Build a wheel of the plug-ins and install it, in place of another version."""
        module = distribution.replace("-", "_")
        stem = f"{module}-{version}"
        wheel = self.folder / f"{stem}-py3-none-any.whl"
        info = f"{stem}.dist-info"
        contents = {
            f"{module}.py": MODULE,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": ENTRY_POINTS.replace("my_plugins", module),
        }
        record = "".join(f"{name},,\n" for name in [*contents, f"{info}/RECORD"])
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in [*contents.items(), (f"{info}/RECORD", record)]:
                archive.writestr(name, text)
        for old in self.site.glob(f"{module}-*.dist-info"):
            for path in old.iterdir():
                path.unlink()
            old.rmdir()
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--upgrade"]
        pip += ["--no-warn-conflicts", "--target", str(self.site), str(wheel)]
        subprocess.run(pip, check=True, capture_output=True, text=True)

    def write(self, kind="list", codec="grey", name="recipe.yaml"):
        path = self.folder / name
        path.write_text(
            RECIPE.replace("kind: list", f"kind: {kind}").replace("codec: grey", f"codec: {codec}")
        )
        return path

    def rasterloom(self, *arguments, code=0, plugged=True):
        paths = [str(self.site)] if plugged else []
        done = subprocess.run(
            [sys.executable, "-m", "rasterloom", *map(str, arguments)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", os.getcwd())]),
                "COLUMNS": "300",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def plan(self, recipe):
        rows = self.rasterloom("plan", recipe, "--format", "json").splitlines()
        return {row["step"]: row for row in map(json.loads, rows)}


@pytest.fixture
def room(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    lines = []
    for number, red in enumerate((10, 90, 160, 250)):
        pixels = np.full((96, 128, 3), (red, 40 * number, 20), np.uint8)
        pixels[::7, ::5] = 255 - pixels[::7, ::5]
        Image.fromarray(pixels).save(images / f"{number}.png")
        lines.append(f"{number}.png|an image of number {number}")
    (images / "pairs.list").write_text("\n".join(lines))
    made = Room(tmp_path)
    made.install("1.0")
    return made


def test_plugins_make_a_corpus_and_a_new_version_makes_it_anew(room):
    recipe = room.write()
    room.rasterloom("run", recipe, "--until", "lengths")
    corpus = Corpus.of(load_recipe(room.write(kind="auto", codec="mini", name="plain.yaml")))
    redness = {row["key"]: row["redness"] for row in corpus.read("scores").to_pylist()}
    captions = {row["key"]: row["caption"] for row in corpus.read("images").to_pylist()}
    reds = {caption: redness[key] for key, caption in captions.items()}
    assert sorted(reds) == [f"an image of number {n}" for n in range(4)]
    assert sorted(reds.values()) == [reds[caption] for caption in sorted(reds)]
    rows = corpus.read("tokens").to_pylist()
    assert {captions[row["key"]] for row in rows} == {c for c, red in reds.items() if red > 100}
    assert {len(parts.codes) for row in rows for parts in image_parts(row)} == {4}  # 64 / 16

    steps = room.plan(recipe)
    assert not any(steps[name]["runs"] for name in ("pairs", "images", "scores", "codes/64", "tokens/64"))
    room.install("1.1")
    anew = room.plan(recipe)
    for name in ("pairs", "scores", "codes/64"):
        assert anew[name]["runs"] and anew[name]["fingerprint"] != steps[name]["fingerprint"]
    assert "my-plugins 1.0 -> my-plugins 1.1" in json.dumps(anew["pairs"])


def image_parts(row):
    profile = own_profile("grey", 16, 256, 300)
    return [piece for piece in pieces(row["input_ids"], profile) if piece.codes is not None]


def test_a_kind_of_file_that_only_a_plugin_knows_is_found(room):
    assert room.plan(room.write(kind="auto"))["pairs"]["runs"]


def test_an_unknown_name_is_answered_with_the_plugins_too(room):
    assert "known: mini, chameleon, movq, llamagen, emu3, grey, wrong" in room.rasterloom(
        "plan", room.write(codec="gray"), code=2
    )
    assert re.search(
        r"known: auto, .*, hf, broken, list", room.rasterloom("plan", room.write(kind="lst"), code=2)
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"kind": "broken"},
            "reader 'broken' of my-plugins 1.0 (entry point my_plugins_not_there:Rea",
        ),
        (
            {"codec": "wrong"},
            "codec 'wrong' of my-plugins 1.0 (entry point my_plugins:NoCodec) is no",
        ),
    ],
)
def test_a_broken_plugin_is_one_line_that_names_it(room, fields, told):
    said = room.rasterloom("plan", room.write(**fields), code=2)
    assert told in said and said.count("\n") == 1


def test_a_name_that_two_packages_bring_is_refused(room):
    room.install("3.0", "other-plugins")
    said = room.rasterloom("plan", room.write(), code=2)
    assert "comes with my-plugins 1.0, other-plugins 3.0: remove all but one" in said


def test_doctor_lists_plugins_good_and_bad(room):
    said = room.rasterloom("doctor", code=1)
    assert "plug-in: scorer 'redness' of my-plugins 1.0" in said
    assert "codec 'grey' of my-plugins 1.0" in said
    assert "judge 'reddest' of my-plugins 1.0" in said
    assert "No module named 'my_plugins_not_there'; repair or remove my-plugins" in said
    assert "Rasterloom has a scorer of that name, which is used instead" in said  # quality


def test_a_judge_of_a_package_judges_and_is_known_by_its_version(room):
    code = """
import numpy as np
from rasterloom.filtering.judges.base import SuitePrompt
from rasterloom.filtering.judges.registry import identity_of, make_judges
from rasterloom.recipe.filtering import Score
judges = make_judges([Score(name="reddest"), Score(name="scene")])
red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
print([one.totals for one in judges[0]([red, red], [SuitePrompt("a", "red"), SuitePrompt("b", "sea")])])
print(identity_of(judges))
"""
    paths = os.pathsep.join([str(room.site), os.environ.get("PYTHONPATH", os.getcwd())])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "[{'red': 1.0}, {'red': 0.0}]",
        "{'reddest': '1:my-plugins 1.0', 'scene': '1'}",
    ]


def test_a_machine_without_the_plugin_says_what_it_lacks():
    for use in (
        lambda: reader_of_kind("list"),
        lambda: make_scorers([Score(name="redness")]),
        lambda: load_codec("grey"),
        lambda: make_judges([Score(name="reddest")]),
    ):
        with pytest.raises(ValueError, match="A plug-in must be installed on every machine that runs steps"):
            use()


def test_nothing_is_looked_for_where_no_plugin_is_asked_for(room):
    recipe = room.folder / "plain.yaml"
    recipe.write_text("corpus: a\nsources: [{path: images}]\n")
    code = f"""
import sys
from rasterloom.utils import plugins
def entry_points(**_):
    raise AssertionError("looked for plug-ins")
plugins.entry_points = entry_points
from rasterloom.recipe.loader import load_recipe
load_recipe({str(recipe)!r})
sys.argv = ["rasterloom", "--help"]
from rasterloom.cli.entry import main
main()
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_recipes_know_the_built_in_names():
    assert set(readers.BUILT_IN) == set(KINDS) and set(codecs.BUILT_IN) == set(CODECS)
