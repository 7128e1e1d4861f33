import pytest

from rasterloom.filtering.scenes.grammar import Caption, Group, OutsideGrammarError, cell_of, read_caption


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("a red circle", Caption((Group(1, "", "red", "circle"),))),
        ("  Two small  green stars. ", Caption((Group(2, "small", "green", "star"),))),
        (
            "a purple ring left of two cyan squares",
            Caption((Group(1, "", "purple", "ring"), Group(2, "", "cyan", "square")), "left of"),
        ),
    ],
)
def test_prompts_are_read_whatever_their_case_and_spaces(prompt, caption):
    assert read_caption(prompt) == caption
    assert read_caption(str(caption)) == caption


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a cat",
        "a red",
        "red circle",
        "four red circles",
        "two red circle",
        "a red circles",
        "a pink circle",
        "a red circle beside a blue square",
        "a red circle left of",
        "a red circle above two red circles",  # which is which?
        "a red circle left of a blue square above a green star",
    ],
)
def test_other_prompts_are_answered_by_the_grammar(prompt):
    with pytest.raises(OutsideGrammarError, match=r"is no drawn scene; one is a, two or three, small or"):
        read_caption(prompt)


def test_a_cell_is_a_share_of_the_short_side():
    assert cell_of(128, 128) == cell_of(160, 96) == cell_of(96, 160) == 8
