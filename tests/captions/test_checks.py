import pytest

from rasterloom.captions.checks import check_captions


def found(text, prompt="", model=""):
    checks = check_captions([text], [prompt], model)
    return {name for name, (value,) in checks.items() if value is True}


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m unable to identify people in images.",
        "I cannot describe this image.",
        "As an AI language model, I do not see images.",
        "Sorry, I can't provide a caption.",
        "Unfortunately, no image was provided.",
        "No image was attached. Please upload one.",
        "This request violates our content policies.",
    ],
)
def test_refusals(text):
    assert "refusal" in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "The image shows a cat.",
        "This picture depicts two horses.",
        "In this image, a dog runs.",
        "Sure! A dog runs.",
        "Here is a caption: a dog runs.",
        "**Caption:** a dog runs",
        "A dog runs. Let me know if you need more!",
    ],
)
def test_boilerplate(text):
    assert found(text) == {"boilerplate"}


@pytest.mark.parametrize(
    "text",
    [
        "A woman in a red coat says sorry to a man at a bus stop.",
        "Two cats on a mat, in the style of a painting.",
        "A poster reads: I cannot wait for summer.",
        "The image of a saint on a church wall, candles below.",
        "Gemini, the twins, in a star chart.",
        "A pond in the style of Claude Monet.",
        "A sure sign of spring: crocuses in the snow.",
        "a language school in Lisbon",
        "一只猫坐在垫子上",
    ],
)
def test_good_captions_pass(text):
    assert found(text) == set()


def test_names_of_models():
    assert found("A robot, drawn by GPT-4o.") == {"names_model"}
    assert found("A llama, as LLaVA sees it.") == {"names_model"}
    assert found("eye-9b thinks it is a cat", model="company/eye-9b") == {"names_model"}
    assert found("eye-9b thinks it is a cat") == set()


def test_an_echo_of_the_prompt():
    prompt = "Describe this image in one or two plain sentences. The page said: "
    assert "echo" in found("Describe this image in one or two plain sentences.", prompt)
    assert "echo" in found("Okay. describe this image in ONE or two plain sentences", prompt)
    assert found("One or two plain cats.", prompt) == set()
    assert found("caption", "Caption:") == set()  # so few words may be a caption's own


def test_repetition_words_and_language():
    loop = "a cat on a mat and " * 20
    checks = check_captions([loop, "a cat sits on a mat by the door of a house", None], [""] * 3)
    assert checks["repetition"][0] > 0.9 and checks["repetition"][1] == 0 and checks["repetition"][2] is None
    assert checks["words"] == [120, 12, None]
    assert checks["language"] in (["en", "en", None], [None, None, None])
    assert checks["refusal"] == [False, False, None]


def test_long_text_takes_no_long_time():
    check_captions(["I" * 1_000_000, "a " * 200_000, "the image " * 100_000], [""] * 3)
