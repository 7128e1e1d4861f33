import pytest

from rasterloom.recipe.sandboxed_templates import check_template, fixed_text, render

NAMES = ("alt", "meta")


def test_names_and_syntax_are_checked():
    check_template("{% if alt %}It said {{ alt }}{% endif %} {{ meta.title | upper }}", NAMES)
    with pytest.raises(ValueError, match=r"\{\{ atl \}\} is not known; did you mean alt"):
        check_template("{{ atl }}", NAMES)
    with pytest.raises(ValueError, match=r"line 2"):
        check_template("a\n{{ alt", NAMES)


def test_values_are_filled_in_and_are_no_templates():
    assert render("{{ alt }}!", {"alt": "{{ meta }}"}) == "{{ meta }}!"


@pytest.mark.parametrize(
    "text",
    [
        "{{ alt.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ meta.nothing }}",
        "{{ meta.title.more }}",
        "{{ 1 / 0 }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{{ meta.update({'a': 1}) }}",
    ],
)
def test_what_is_not_there_or_not_allowed_is_an_error(text):
    with pytest.raises(ValueError):
        render(text, {"alt": "a", "meta": {"title": "t"}})


def test_the_words_that_stay():
    assert fixed_text("Say it. {{ alt }} In short.") == "Say it.   In short."
