"""Errors: their text for a library's user and for the command line, and their way between processes."""

import pickle

import pytest

from rasterloom import errors
from rasterloom.cli.options import with_options
from rasterloom.errors import (
    EXIT_CODES,
    WRONG_USE,
    RasterloomError,
    RecipeError,
    RunError,
    StepFailed,
    UserError,
    one_line,
)

CLASSES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RasterloomError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_has_an_exit_code_and_survives_pickling(kind):
    error = kind("what is wrong", field="n", value=0, hint="give {top_k}", needs="tokens")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error) and with_options(again) == with_options(error)
    assert error.exit_code in EXIT_CODES
    assert (error.exit_code == WRONG_USE) == issubclass(kind, UserError)
    assert kind in (RasterloomError, UserError, RunError) or isinstance(error, ValueError | RuntimeError)


def test_the_library_names_arguments_and_the_command_line_options():
    error = RecipeError("takes a number", field="top_k", value="x", hint="or name a {folder}", needs="text")
    assert str(error) == "top_k x: takes a number: or name a folder: run the steps up to text first"
    assert with_options(error) == (
        "--top-k x: takes a number: or name a --out: rasterloom run RECIPE --until text"
    )


def test_braces_in_a_message_stay():
    assert str(RecipeError("it says '{image}'", field="task")) == "task: it says '{image}'"


def test_one_line():
    assert one_line(ValueError("a\n  b\t c")) == "a b c"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(FileNotFoundError(2, "No such file", "x")) == "No such file"
    assert one_line(StepFailed("first\nlast"), named=True) == "StepFailed: last"
    assert one_line(KeyError(), named=True) == "KeyError: no message"
    assert one_line(ValueError("abc"), limit=2) == "ab"


def test_a_field_of_the_recipe_is_no_option():
    error = RecipeError("is another", field="train.init", value="./m")
    assert with_options(error) == "train.init ./m: is another"
