"""The fenced blocks of the docs, by kind. Run by its path it counts them.

sh            commands, a line each; tests/pipelines/test_docs.py runs them on a small corpus
console       the same with `$ ` before each command, and what it prints below it
sh checked    commands that take a cluster, a cloud, a download or many minutes: options, files and
              the shell's grammar are checked (tests/test_docs.py)
yaml          a recipe, or some sections of one; loaded
python        a program; tests/pipelines/test_readers.py runs those of docs/versions.md
json          parsed
text          what no computer reads: outputs, drawings, layouts
"""

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
KINDS = ("sh", "console", "sh checked", "yaml", "python", "json", "text")


@dataclass(frozen=True)
class Command:
    """A command of the docs without comment, and its shown output."""

    text: str
    shown: tuple[str, ...] = ()

    @property
    def words(self):
        return shlex.split(self.text)

    @property
    def ours(self):
        return self.text.startswith("rasterloom ")

    @property
    def elsewhere(self):
        """True if it takes a cluster, or does not end."""
        return self.ours and bool({"submit", "jobs", "serve", "--address"} & set(self.words))


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    kind: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def commands(self):
        if self.kind == "console":
            parts = re.split(r"^\$ ", self.text, flags=re.M)[1:]
            lines = [part.rstrip("\n").split("\n") for part in parts]
            return [Command(_without_comment(first), tuple(shown)) for first, *shown in lines]
        if self.kind.startswith("sh"):
            joined = re.sub(r"\\\n\s*", "", self.text)
            found = [_without_comment(line) for line in joined.splitlines()]
            return [Command(line) for line in found if line]
        return []

    @property
    def runs(self):
        """True if a test runs at least one of its commands."""
        return self.kind in ("sh", "console") and not all(c.elsewhere for c in self.commands)


def recipe_of(block):
    """The recipe that a block of YAML is, or is part of: with what it leaves out."""
    given = yaml.safe_load(block.text)
    stage = {"target": 512, "steps": 1}
    train = (
        {"train": {"stages": [stage] * 2, **given.get("train", {})}} if {"train", "run"} & {*given} else {}
    )
    return {"corpus": "demo", "sources": [{"path": "pairs.parquet"}], **given, **train}


def _without_comment(line):
    return re.sub(r"(^|\s+)#( .*)?$", "", line.strip())


def pages():
    """All pages that have blocks, as paths from the repository's root."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    return [*found, *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("infra/*/README.md"))]


def blocks():
    """All blocks of all pages."""
    found = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(.*)\n((?:(?!```).*\n)*?)```$", text, re.M):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(path.relative_to(ROOT).as_posix(), line, match[1], match[2]))
    return found


if __name__ == "__main__":
    kinds = Counter(block.kind for block in blocks())
    run = [command for block in blocks() if block.runs for command in block.commands if not command.elsewhere]
    print(f"{sum(kinds.values())} blocks: {', '.join(f'{kind} {n}' for kind, n in kinds.items())}")
    print(f"{sum(block.runs for block in blocks())} blocks of commands run, {len(run)} commands")
