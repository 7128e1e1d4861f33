"""Locators: any file name comes back as it was, and nothing leads out of a source."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.sources import locator
from rasterloom.sources.locator import Place

NAMES = (
    st.binary(min_size=1, max_size=20)
    .filter(lambda name: b"\0" not in name and b"/" not in name and name not in (b".", b".."))
    .map(os.fsdecode)
)


@given(NAMES, st.integers(0, 2**63), st.integers(0, 2**63), NAMES)
def test_whatever_a_disk_can_hold_comes_back(name: str, first: int, second: int, column: str) -> None:
    for text, place in (
        (locator.of_file(name), Place(name)),
        (locator.of_range(name, first, second), Place(name, first, second, is_range=True)),
        (locator.of_cell(name, first, second, column), Place(name, first, second, column=column)),
    ):
        text.encode("utf-8")
        assert locator.parse(text) == place


def test_plain_names_stay_readable() -> None:
    assert locator.of_range("größe/a b.tar", 512, 7) == "größe/a b.tar#512+7"
    assert locator.of_file("100%#1.jpg") == "100%25%231.jpg"
    assert locator.parse(locator.of_streamed(3, 5)) == Place("", 3, 5)


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd",
        "../a.jpg",
        "a/../../b",
        "a%2F..%2F../b",
        "%2E%2E/a",
        "a%00b",
        "a#1",
        "a#1+2#3",
        "a#-1+2",
    ],
)
def test_what_leads_out_of_a_source_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"leads out of its source|locates nothing"):
        locator.parse(text)
