import datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.errors import RecipeError
from rasterloom.recipe import yaml_file
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.yaml_file import read_yaml

BOMB = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
HEAD = "corpus: c\nworkspace: ./work\nsources: [{path: a.csv, caption: text}]\n"


@pytest.fixture
def refused(tmp_path: Path):
    """Return the message of the error with which a recipe is refused."""

    def load(text: str | bytes) -> str:
        file = tmp_path / "recipe.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(RecipeError) as error:
            load_recipe(file)
        message = str(error.value)
        assert str(file) in message
        return message.removeprefix(str(file))

    return load


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, ":6: with its aliases"),
        (BOMB.replace("[", "{<<: [").replace("]", "]}"), ":6: with its aliases"),
        ("a: &a " + "x" * 90_000 + "\nb: [" + "*a, " * 100 + "]", ":2: with its aliases"),
        ("[" * 100_000, ":1: nests more than 50"),
        ("- " * 1000 + "a", ":1: nests more than 50"),
        ("a: &a [*a]", ":1: the anchor &a holds itself"),
        ("a: *b", ":1: not YAML: found undefined alias"),
        ("# " + "x" * 2**20, " is no recipe: it has more than 1048576 bytes"),
        ("corpus: " + "9" * 5000, ":1: not YAML: cannot read '999"),
        ("corpus: 2024-99-99", ":1: not YAML: cannot read '2024-99-99' as timestamp"),
        ("corpus: !!int ''", ":1: not YAML: cannot read '' as int"),
        ("corpus: !!bool perhaps", ":1: not YAML: cannot read 'perhaps' as bool"),
        ("corpus: !!timestamp soon", ":1: not YAML: cannot read 'soon' as timestamp"),
        ("? [a]\n: b", ":1: not YAML: found unhashable key"),
        ("corpus: !!python/object:os.system ls", ":1: not YAML: could not determine a constructor"),
        ('workspace: "\\0"', ":1: a value holds a NUL"),
        ('workspace: "\\ud800"', ":1: a value holds a NUL"),
        ("a: b\n--- c", ":2: not YAML: found another document"),
        (b"corpus: \xff", ":1: this is not UTF-8 text"),
        ("a: 1\nb: {c: 1}\na: 2", ":3: a is given twice, here and in line 1"),
        ("a:\n\tb: 1", ":2: not YAML: found character '\\t'"),
        ("", " holds no recipe"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_file_that_is_no_recipe_is_refused_in_one_short_line(refused, text, message) -> None:
    said = refused(text)
    assert message in said and "\n" not in said and len(said) < 700


def test_long_values_and_names_are_cut(refused) -> None:
    for line in (
        f"{'n' * 9000}: 1",
        f"fetch: {{retries: -{'9' * 4000}}}",
        f"fetch: {{retries: -0x{'f' * 9000}}}",
    ):
        said = refused(HEAD + line)
        assert "\n" not in said and len(said) < 700
    said = refused(HEAD + "\n".join(f"field{n}: 1" for n in range(1000)))
    assert len(said.splitlines()) == 21 and said.endswith("and 980 more problems")


def test_an_alias_costs_no_more_than_it_would_written_out(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.yaml").write_text("a: &a [b, c]\nd: [*a, {<<: {e: *a}}]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": ["b", "c"], "d": [["b", "c"], {"e": ["b", "c"]}]}
    monkeypatch.setattr(yaml_file, "MOST_CHARACTERS", 20)
    with pytest.raises(RecipeError, match=":2: with its aliases"):
        read_yaml(tmp_path / "a.yaml")


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.dates() | st.text("ab\n: -#é")
)


@given(st.recursive(SCALARS, lambda part: st.lists(part) | st.dictionaries(st.text("ab: "), part)))
def test_ordinary_yaml_reads_as_ever(tmp_path_factory, value) -> None:
    file = tmp_path_factory.mktemp("yaml") / "a.yaml"
    text = yaml.safe_dump(value, allow_unicode=True)
    file.write_text(text)
    assert read_yaml(file) == yaml.safe_load(text)


def test_dates_and_numbers_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("[2024-01-02, 1e3, 0x10, '9', yes]")
    assert read_yaml(tmp_path / "a.yaml") == [datetime.date(2024, 1, 2), "1e3", 16, "9", True]
