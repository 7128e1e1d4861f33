import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.utils import formatting


@given(st.text(st.characters()), st.integers(2, 50))
def test_plain_text_is_short_and_printable(text: str, limit: int) -> None:
    plain = formatting.plain(text, limit)
    assert len(plain) <= limit
    plain.encode("utf-8")
    assert not set(plain) & {chr(c) for c in range(32)}
    assert "\u202e" not in plain


@given(st.integers(1, 10**7), st.integers(0, 10**7))
def test_percent_says_all_or_nothing_only_when_it_is(whole: int, part: int) -> None:
    part = min(part, whole)
    assert (formatting.percent(part, whole) == "100 %") == (part == whole)
    assert (formatting.percent(part, whole) == "0 %") == (part == 0)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (99_999, "99,999"),
        (239_304, "239 k"),
        (1_234_567, "1.23 M"),
        (4.2e9, "4.2 G"),
    ],
)
def test_short(number: float, said: str) -> None:
    assert formatting.short(number) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1400, "1.4 kB"),
        (142_000, "142.0 kB"),
        (6.26e6, "6.3 MB"),
        (2e15, "2,000.0 TB"),
    ],
)
def test_size(number: float, said: str) -> None:
    assert formatting.size(number) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (59.97, "1 min"), (192, "3 min 12 s"), (7500, "2 h 5 min")],
)
def test_duration(seconds: float, said: str) -> None:
    assert formatting.duration(seconds) == said


def test_a_number_beside_a_name_that_ends_in_one() -> None:
    assert formatting.counted("kept", 1234) == "kept 1,234"
    assert formatting.counted("rule: min_side >= 256", 40) == "rule: min_side >= 256: 40"
