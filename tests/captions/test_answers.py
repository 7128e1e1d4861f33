import pytest

from rasterloom.captions.answers import Answer, caption_in, captions_in
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure

NAMES = ("short", "long")


@pytest.mark.parametrize(
    "text",
    [
        '{"short": "a cat", "long": "a grey cat on a mat"}',
        '```json\n{"short": "a cat", "long": "a grey cat on a mat"}\n```',
        'Sure! Here it is:\n{"short": " a cat ", "long": "a grey cat on a mat", "mood": "calm"}\nBye.',
        '<think>It is {"short": 1}?</think>\n{"short": "a cat", "long": "a grey cat on a mat"}',
    ],
    ids=["bare", "fenced", "words around", "thoughts"],
)
def test_captions_of_several_lengths(text):
    assert captions_in(Answer(text), NAMES) == {"short": "a cat", "long": "a grey cat on a mat"}


def test_lists_become_text():
    assert captions_in(Answer('{"tags": ["cat", " mat ", ""]}'), ["tags"]) == {"tags": "cat, mat"}


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Answer('{"short": "a cat", "long": "a gr', is_cut=True), ErrorClass.CUT_ANSWER, "max_tokens"),
        (Answer('{"short": "a cat", "long": "a gr'), ErrorClass.BAD_ANSWER, "no JSON"),
        (Answer('{"short": "a cat"}'), ErrorClass.BAD_ANSWER, "no 'long', but short"),
        (Answer('{"short": "a cat", "long": {"en": "a"}}'), ErrorClass.BAD_ANSWER, "'long' is no text"),
        (Answer('{"short": "a cat", "long": null}'), ErrorClass.BAD_ANSWER, "'long' is no text"),
        (Answer('{"short": "a cat", "long": " "}'), ErrorClass.NO_ANSWER, "'long' is empty"),
        (Answer('["a cat", "a grey cat"]'), ErrorClass.BAD_ANSWER, "no JSON object"),
        (Answer("a cat"), ErrorClass.BAD_ANSWER, "no JSON object"),
        (Answer('{"a":' * 100_000 + "}"), ErrorClass.BAD_ANSWER, "no JSON"),
        (Answer(""), ErrorClass.NO_ANSWER, "empty"),
        (Answer("<think>hm</think>"), ErrorClass.NO_ANSWER, "empty"),
    ],
)
def test_answers_of_another_form(answer, error, words):
    with pytest.raises(FetchFailure, match=words) as caught:
        captions_in(answer, NAMES)
    assert caught.value.error is error
    assert len(caught.value.detail) <= 500


def test_a_whole_answer_is_a_caption_unless_it_was_cut():
    assert caption_in(Answer("\n a cat\n")) == "a cat"
    with pytest.raises(FetchFailure) as caught:
        caption_in(Answer("a cat on a", is_cut=True))
    assert caught.value.error is ErrorClass.CUT_ANSWER
