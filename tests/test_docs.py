"""What the docs show is so: commands have these options, recipes load, links lead somewhere."""

import json
import re
import shlex
import subprocess
import tomllib

import click
import pytest
import typer
import yaml
from docblocks import KINDS, ROOT, blocks, pages, recipe_of

from rasterloom.cli import app
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.recipe import Recipe

BLOCKS = blocks()
ALL_COMMANDS = [(block, command) for block in BLOCKS for command in block.commands]


def of_kind(*kinds):
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.kind in kinds]


def test_every_block_says_what_it_is():
    assert len(BLOCKS) > 80
    for block in BLOCKS:
        assert block.kind in KINDS, f"{block}: ```{block.kind} is none of {', '.join(KINDS)}"
    for path in pages():  # a block that is not closed, or indented, would go unseen
        fences = re.findall(r"^\s*```", path.read_text(), re.M)
        assert len(fences) == 2 * sum(block.page == path.relative_to(ROOT).as_posix() for block in BLOCKS), (
            path
        )


def parse(command, words, parent=None, name="rasterloom"):
    """Parse words as the command line would, without running anything."""
    context = command.make_context(name, list(words), parent=parent)
    if hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        name, below, rest = command.resolve_command(context, rest)
        parse(below, rest, context, name)


def ours(page):
    """The commands of a page that are Rasterloom's, those behind a prompt of Ray or Python too."""
    for block, command in ALL_COMMANDS:
        if block.page == page:
            for part in re.split(r"\s(?:&&|\||;)\s", command.text):
                match = re.search(r"(?:^|python3? -m )rasterloom (.*)", part)
                if match:
                    yield f"{block}: {part}", shlex.split(match[1])


@pytest.mark.parametrize("page", sorted({block.page for block, _ in ALL_COMMANDS}))
def test_rasterloom_takes_what_the_docs_say(page):
    command = typer.main.get_command(app.app)
    for where, words in ours(page):
        try:
            parse(command, words)
        except Exception as error:
            pytest.fail(f"{where}: {getattr(error, 'message', error)}")


def test_such_a_command_is_looked_at_closely():
    command = typer.main.get_command(app.app)
    for wrong in (
        "runn recipe.yaml",
        "run recipe.yaml --untill tokens",
        "versions tag recipe.yaml",
        "sample r --n two",
    ):
        with pytest.raises(Exception) as found:
            parse(command, shlex.split(wrong))
        assert getattr(found.value, "exit_code", None) == 2, wrong


def test_ray_takes_what_the_docs_say():
    from ray.scripts.scripts import cli as ray

    seen = set()
    for block, command in ALL_COMMANDS:
        for part in re.split(r"\s&&\s", command.text):
            if match := re.match(r"(?:\w+=\S+ )*ray (.*)", part):
                words = shlex.split(match[1])
                seen.add(words[0])
                try:
                    parse(ray, words)
                except click.ClickException as error:
                    pytest.fail(f"{block}: {part}: {error.message}")
    assert {"up", "down", "job"} <= seen


@pytest.mark.parametrize("block", of_kind("sh", "sh checked"))
def test_the_shell_can_read_it(block):
    done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_scripts_and_targets_are_there():
    makefile = (ROOT / "Makefile").read_text()
    scripts = 0
    for block, command in ALL_COMMANDS:
        for target in re.findall(r"(?:^|\s)make ([\w-]+)", command.text):
            assert re.search(rf"^{target}:", makefile, re.M), f"{block}: make {target}"
        for name, rest in re.findall(
            r"(?:^|[\s\"'/])python3? ((?:examples|scripts|infra|benchmarks)/\S+\.py)(.*)", command.text
        ):
            scripts += 1
            text = (ROOT / name).read_text()
            for option in re.findall(r"--[\w-]+", rest):
                assert f'"{option}"' in text, f"{block}: {name} {option}"
    assert scripts >= 4


@pytest.mark.parametrize("block", of_kind("yaml"))
def test_a_recipe_loads(block, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe_of(block), sort_keys=False))
    load_recipe(file)


@pytest.mark.parametrize("block", of_kind("json"))
def test_json_is_json(block):
    decoder, text = json.JSONDecoder(), block.text.strip()
    while text:
        _, end = decoder.raw_decode(text)
        text = text[end:].lstrip()


@pytest.mark.parametrize("block", of_kind("python"))
def test_python_is_python(block):
    compile(block.text, str(block), "exec")


def anchor(title):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, part = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{target}: no such file"
        if part:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            assert part in map(anchor, titles), f"{target}: no such heading"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in index, path.name


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_extras_that_a_page_names_are_there(page):
    text = page.read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"rasterloom\[(\w+)\]", text)) <= set(extras)
    rooms = "recipe|sources|filtering|tokenize|train|versions|pipelines|report"
    for name in re.findall(rf"`((?:{rooms})/\w+\.py)`", text):
        assert (ROOT / "rasterloom" / name).exists(), name
    outer = "rasterloom|benchmarks|scripts|infra|tests|examples|docs"
    for name in re.findall(rf"`((?:{outer})/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(bench_\w+\.py)`", text):
        assert (ROOT / "benchmarks" / name).exists(), name


def test_the_page_on_img2dataset_has_its_options_and_fields_of_ours():
    text = (ROOT / "docs" / "from-img2dataset.md").read_text()
    options = {
        name for row in re.findall(r"^\| (`[^|]*)\|", text, re.M) for name in re.findall(r"`(\w+)`", row)
    }
    assert len(options) == 37 and {"url_list", "image_size", "bbox_col", "max_shard_retry"} <= options
    for section, name in re.findall(r"\b(fetch|run)\.([a-z]\w*)\b(?!\.)", text.replace("fetch.md", "")):
        assert name in Recipe.model_fields[section].annotation.model_fields, f"{section}.{name}"


GPU = re.compile(r"\b(A100|H100|H200|GPU)s?\b")
RATE = re.compile(r"\d ?(tokens|images|pictures)( |/)(per |a )?(s|second)\b|\d ?% (MFU|of \d+ TFLOP)")
PAPER = re.compile(r"not measured|nobody has measured|has not been measured|\*assumed\*|benchmarks/GPU\.md")


def test_a_gpus_figures_are_rows_of_its_table_or_said_to_be_of_paper():
    """By paragraph; rows of a table by their section."""
    found = 0
    for path in [*pages(), ROOT / "benchmarks/RESULTS.md"]:
        for section in re.split(r"^#+ ", path.read_text(), flags=re.M):
            for part in section.split("\n\n"):
                if GPU.search(part) and RATE.search(part):
                    found += 1
                    said = PAPER.search(section if part.startswith("|") else part)
                    assert said, f"{path.name}: {part[:200]}"
    assert found >= 4
