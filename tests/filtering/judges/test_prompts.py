import json

import pytest

from rasterloom.errors import RecipeError
from rasterloom.filtering.judges.base import Question, SuitePrompt
from rasterloom.filtering.judges.prompts import ELSEWHERE, load_prompts
from rasterloom.filtering.scenes.suite import scene_prompts


def written(tmp_path, name, *lines):
    (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    return str(tmp_path / name)


def test_the_scenes_come_with_the_package():
    prompts = load_prompts("scenes")
    assert [prompt.text for prompt in prompts] == scene_prompts()
    assert len({prompt.name for prompt in prompts}) == 120


def test_own_json_lines(tmp_path):
    cow = {"question": "How many cows?", "answer": "two", "skill": "count", "needs": [0]}
    rows = [{"prompt": "two cows", "id": "cows", "category": "animals", "questions": ["Any cow?", cow]}]
    path = written(tmp_path, "own.jsonl", json.dumps(rows[0]), "", json.dumps({"prompt": "a cat"}))
    questions = Question("Any cow?"), Question("How many cows?", "two", "count", (0,))
    assert load_prompts(path) == [
        SuitePrompt("cows", "two cows", "animals", questions),
        SuitePrompt("00003", "a cat"),
    ]


def test_lines_of_geneval_2(tmp_path):
    row = {
        "prompt": "four white cows",
        "atom_count": 3,
        "vqa_list": [["How many cows are in the image?", "four"], ["Are the cows white?", "Yes"]],
        "skills": ["count", "attribute"],
    }
    (prompt,) = load_prompts(written(tmp_path, "geneval2_data.jsonl", json.dumps(row)))
    assert (prompt.text, prompt.category) == ("four white cows", "3 atoms")
    assert prompt.questions == (
        Question("How many cows are in the image?", "four", "count"),
        Question("Are the cows white?", "Yes", "attribute"),
    )


def test_rows_of_dpg_bench(tmp_path):
    head = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    path = written(
        tmp_path,
        "dpg_bench.csv",
        f"{head}question_natural_language",
        'a,"A cube, red.",,1,0,entity,whole,entity - whole (cube),Is there a cube?',
        'a,"A cube, red.",,2,1,attribute,color,"attribute - color (cube, red)",Is the cube red?',
        "b,A lake.,,1,0,global,,global,Is it a photo?",
        'a,"A cube, red.",,3,"1, 2",relation,,,Is the red cube on the floor?',
    )
    cube, lake = load_prompts(path)
    assert (cube.name, cube.text, lake.name) == ("a", "A cube, red.", "b")
    assert cube.questions == (
        Question("Is there a cube?", "yes", "entity"),
        Question("Is the cube red?", "yes", "attribute", (0,)),
        Question("Is the red cube on the floor?", "yes", "relation", (0, 1)),
    )


def test_rows_of_parti_prompts(tmp_path):
    path = written(
        tmp_path,
        "PartiPrompts.tsv",
        "Prompt\tCategory\tChallenge\tNote",
        "bond\tAbstract\tBasic\tbiology",
        'a "quoted" sign\tArts\tWriting\t',
    )
    assert load_prompts(path) == [
        SuitePrompt("0000", "bond", "Abstract"),
        SuitePrompt("0001", 'a "quoted" sign', "Arts"),
    ]


def test_a_prompt_a_line_and_strings_with_line_separators(tmp_path):
    assert load_prompts(written(tmp_path, "a.txt", "a cat", "", " a dog ")) == [
        SuitePrompt("00001", "a cat"),
        SuitePrompt("00003", "a dog"),
    ]
    row = json.dumps({"prompt": "a cat\u2028on a mat"}, ensure_ascii=False)
    assert [one.text for one in load_prompts(written(tmp_path, "a.jsonl", row))] == ["a cat\u2028on a mat"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_suite_that_does_not_come_along_is_answered_by_its_place(name):
    with pytest.raises(RecipeError, match=r"not in the package.*get .* from https://"):
        load_prompts(name)


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("a.jsonl", '{"text": "a cat"}', "line 1: it has no 'prompt'"),
        ("a.jsonl", '{"prompt": 3}', "line 1: the prompt is no text"),
        ("a.jsonl", "[1]", "line 1: "),
        ("a.jsonl", "{", "line 1: Expecting"),
        ("a.jsonl", '{"prompt": "a", "questions": [{"question": "b?", "needs": [1]}]}', "is not there"),
        ("a.jsonl", '{"prompt": "a", "vqa_list": [["b?", "yes"]], "skills": []}', "line 1: zip"),
        ("a.jsonl", "", "holds no prompt"),
        ("a.csv", "prompt", "it has no column item_id, text"),
        ("a.tsv", "prompt", "it has no column Prompt, Category"),
        ("a.txt", " ", "holds no prompt"),
        ("a.pdf", "a cat", "prompts are read from .jsonl, .txt, .csv, .tsv files"),
        ("a", "a cat", "prompts are read from .jsonl, .txt, .csv, .tsv files"),
    ],
)
def test_what_cannot_be_read_is_reported_in_a_line(tmp_path, name, line, reason):
    with pytest.raises(RecipeError, match=reason) as error:
        load_prompts(written(tmp_path, name, line))
    assert "\n" not in str(error.value)


def test_missing_files_and_repeated_ids_are_reported(tmp_path):
    with pytest.raises(RecipeError, match="No such file"):
        load_prompts(str(tmp_path / "none.jsonl"))
    row = json.dumps({"prompt": "a", "id": 1})
    with pytest.raises(RecipeError, match="two prompts have the id '1'"):
        load_prompts(written(tmp_path, "twice.jsonl", row, row))
