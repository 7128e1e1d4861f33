"""Prompts of suites: the one in the package, and files of others.

Suites whose licence forbids a copy, or that a user can get in a minute, are read from their authors' file.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rasterloom.errors import RecipeError, one_line
from rasterloom.filtering.judges.base import Question, SuitePrompt
from rasterloom.filtering.scenes.suite import scene_prompts
from rasterloom.utils.json_files import lines_of
from rasterloom.utils.suggest import did_you_mean

SCENES = "scenes"
# Suites that do not come with the package: the file to get, from where, and under which licence.
ELSEWHERE = {
    "geneval2": (
        "geneval2_data.jsonl",
        "https://github.com/facebookresearch/GenEval2",
        "CC BY-NC 4.0, which is not for this package",
    ),
    "dpg": ("dpg_bench.csv", "https://github.com/TencentQQGYLab/ELLA", "the authors' file"),
    "parti": ("PartiPrompts.tsv", "https://github.com/google-research/parti", "Apache-2.0"),
}


def load_prompts(name: str) -> list[SuitePrompt]:
    """Load the prompts of a suite: `scenes`, or a .jsonl, .txt, .csv or .tsv file.

    Raises:
        RecipeError: it is neither, cannot be read, or is a suite whose file is elsewhere.
    """
    if name == SCENES:
        return [SuitePrompt(f"{i:03d}", text) for i, text in enumerate(scene_prompts())]
    if name in ELSEWHERE:
        file, place, licence = ELSEWHERE[name]
        hint = f"get {file} from {place} ({licence}) and give its path"
        raise RecipeError("its prompts are not in the package", field="suite", value=name, hint=hint)
    path = Path(name)
    read = READERS.get(path.suffix.lower())
    if read is None:
        if path.exists():
            raise RecipeError(f"prompts are read from {', '.join(READERS)} files", field="suite", value=name)
        known = did_you_mean(name, [SCENES, *READERS])
        raise RecipeError(f"no such suite; {known} files", field="suite", value=name)
    try:
        prompts = list(read(path))
    except RecipeError:
        raise
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise RecipeError(one_line(error), field="suite", value=name) from None
    if not prompts:
        raise RecipeError("the file holds no prompt", field="suite", value=name)
    names = [prompt.name for prompt in prompts]
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise RecipeError(f"two prompts have the id {twice!r}", field="suite", value=name)
    return prompts


def _json_lines(path: Path) -> Iterator[SuitePrompt]:
    """Our own lines, and those of GenEval 2 (``vqa_list``, ``skills``)."""
    for number, line in enumerate(lines_of(path.read_text(encoding="utf-8-sig")), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            questions = tuple(_pairs(row) if "vqa_list" in row else map(_question, row.get("questions", ())))
            text, name = row["prompt"], row.get("id", f"{number:05d}")
            if not isinstance(text, str) or not text.strip():
                raise ValueError("the prompt is no text")
            _check_needs(questions)
            yield SuitePrompt(str(name), text, _category(row), questions)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
            raise RecipeError(f"line {number}: {why}", field="suite", value=path) from None


def _plain_lines(path: Path) -> Iterator[SuitePrompt]:
    """A prompt a line."""
    for number, line in enumerate(lines_of(path.read_text(encoding="utf-8-sig")), start=1):
        if line.strip():
            yield SuitePrompt(f"{number:05d}", line.strip())


def _category(row: dict[str, Any]) -> str:
    """The category of a line, of GenEval 2 its atoms."""
    atoms = row.get("atom_count")
    return str(row.get("category", "" if atoms is None else f"{atoms} atoms"))


def _pairs(row: dict[str, Any]) -> Iterator[Question]:
    for (text, answer), skill in zip(row["vqa_list"], row["skills"], strict=True):
        yield Question(str(text), str(answer), str(skill))


def _question(row: Any) -> Question:
    if isinstance(row, str):
        return Question(row)
    needs = tuple(int(place) for place in row.get("needs", ()))
    return Question(
        str(row["question"]), str(row.get("answer", "yes")), str(row.get("skill", "question")), needs
    )


def _check_needs(questions: tuple[Question, ...]) -> None:
    for question in questions:
        if not all(0 <= place < len(questions) for place in question.needs):
            raise ValueError(f"{question.text!r} needs a question that is not there, counted from 0")


def _propositions(path: Path) -> Iterator[SuitePrompt]:
    """DPG-Bench: a row a question, with the prompt's text, and the propositions that it depends on."""
    texts: dict[str, str] = {}
    rows: dict[str, list[dict[str, str]]] = {}
    for row in _table(path, ",", ("item_id", "text", "proposition_id", "dependency", "category_broad")):
        texts.setdefault(row["item_id"], row["text"])
        rows.setdefault(row["item_id"], []).append(row)
    for name, of_prompt in rows.items():
        place = {row["proposition_id"].strip(): number for number, row in enumerate(of_prompt)}
        questions = tuple(
            Question(
                row["question_natural_language"],
                skill=row["category_broad"].strip() or "question",
                needs=tuple(place[one] for one in _depends(row["dependency"]) if one in place),
            )
            for row in of_prompt
        )
        yield SuitePrompt(name, texts[name], questions=questions)


def _depends(text: str) -> list[str]:
    """Numbers of the propositions that one depends on; 0 is none."""
    return [one.strip() for one in text.split(",") if one.strip() not in ("", "0")]


def _parti(path: Path) -> Iterator[SuitePrompt]:
    """PartiPrompts: a row a prompt, with its category."""
    for number, row in enumerate(_table(path, "\t", ("Prompt", "Category"))):
        if row["Prompt"].strip():
            yield SuitePrompt(f"{number:04d}", row["Prompt"].strip(), row["Category"].strip())


def _table(path: Path, delimiter: str, needed: tuple[str, ...]) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, delimiter=delimiter, restval="")
        lacking = [name for name in needed if name not in (table.fieldnames or ())]
        if lacking:
            raise ValueError(f"it has no column {', '.join(lacking)}")
        yield from table


READERS: dict[str, Callable[[Path], Iterator[SuitePrompt]]] = {
    ".jsonl": _json_lines,
    ".txt": _plain_lines,
    ".csv": _propositions,
    ".tsv": _parti,
}
