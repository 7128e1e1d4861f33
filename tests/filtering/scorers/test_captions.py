import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.filtering.scorers.base import Batch
from rasterloom.filtering.scorers.captions import CaptionScorer, LanguageScorer, judge

LANGUAGES = LanguageScorer()


@pytest.mark.parametrize(
    ("caption", "column", "value"),
    [
        ("  a cat  ", "caption_chars", 5),
        (None, "caption_chars", 0),
        ("A dog's life, twice-told.", "caption_words", 5),
        ("猫の写真", "caption_words", 4),
        ("Привет, мир", "caption_words", 2),
        ("see https://a.example/x?y", "caption_url", True),
        ("from www.cats.org", "caption_url", True),
        ("from cats.com", "caption_url", True),
        ("a cat. Come here", "caption_url", False),
        ("IMG_2034.JPG", "caption_file_name", True),
        ("DSC00123", "caption_file_name", True),
        ("big_red_house", "caption_file_name", True),
        ("4f2a99c01b7de3", "caption_file_name", True),
        ("1024x768", "caption_file_name", True),
        ("my photo of 2019", "caption_file_name", False),
        ("Panda", "caption_file_name", False),
        ("p. 12", "caption_file_name", False),
        ("a cat", "caption_repetition", 0),
        ("cat cat cat cat", "caption_repetition", 0.75),
        ("buy it now buy it now", "caption_repetition", 0.5),
        ("untitled", "caption_boilerplate", True),
        ("Image 3", "caption_boilerplate", True),
        ("...", "caption_boilerplate", True),
        ("Royalty-free stock photo: a dog", "caption_boilerplate", True),
        ("© 2019 Somebody", "caption_boilerplate", True),
        ("An image of a dog and its shadow", "caption_boilerplate", False),
        ("a broken stick", "caption_boilerplate", False),
    ],
)
def test_rules(caption: str | None, column: str, value: float) -> None:
    assert judge(caption)[column] == value


PLACEHOLDERS = """
    nan, NaN, <NA>, NaT, None, none, null, NULL, [null], (none), nil, n/a, N/A, NA, n.a., #N/A, -nan,
    undefined,
    unknown, untitled, Untitled., image, default, placeholder, no caption, No description,
    untitled 3, lorem ipsum
"""


@pytest.mark.parametrize("caption", [part.strip() for part in PLACEHOLDERS.split(",")])
def test_a_placeholder_is_boilerplate(caption: str) -> None:
    assert judge(caption)["caption_boilerplate"]


@pytest.mark.parametrize(
    "caption",
    [
        "Nan bread on a plate",
        "nanna",
        "Nat King Cole",
        "none of them",
        "a null sign",
        "Na Pali coast",
        "Anna",
    ],
)
def test_a_caption_with_the_letters_of_a_placeholder_is_none(caption: str) -> None:
    assert not judge(caption)["caption_boilerplate"]


@pytest.mark.parametrize(
    "caption",
    ["IMG_1234.jpg", "DSC_0042.NEF", "P1010012.JPG", "scan0001.tif", "a.heic", "PXL_20230101"],
)
def test_the_name_of_a_file_is_a_file_name(caption: str) -> None:
    assert judge(caption)["caption_file_name"]


@given(st.text())
def test_any_text_has_all_columns_in_their_ranges(caption: str) -> None:
    row = judge(caption)
    assert row.keys() == CaptionScorer.columns.keys()
    assert 0 <= row["caption_repetition"] < 1
    found = LANGUAGES(Batch([], [caption]))
    assert found["language"][0] is None or found["language"][0].isascii()


@pytest.mark.parametrize("text", ["a_" * 50_000, "a-" * 50_000 + " ", "w." * 50_000, "img" * 30_000 + "!"])
def test_a_long_caption_takes_no_long_time(text: str) -> None:
    """CPU time, and a limit that only a pattern of the wrong order of growth can pass."""
    start = time.process_time()
    judge(text)
    assert time.process_time() - start < 5


def test_languages() -> None:
    captions = [
        "ein Bild von einer Katze auf dem Sofa",
        "猫の写真です",
        "a photo of a cat\non a mat",
        "",
        None,
        "12",
    ]
    found = LanguageScorer()(Batch([], captions))
    assert found["language"] == ["de", "ja", "en", None, None, None]
    confidence = pa.array(found["language_confidence"], from_pandas=True)
    assert confidence.is_null().to_pylist() == [False] * 3 + [True] * 3
    assert confidence[0].as_py() > 0.9
    assert len(LanguageScorer().digest) == 64
