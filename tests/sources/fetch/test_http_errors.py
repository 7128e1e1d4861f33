from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.sources.fetch.http_errors import LONGEST_WAIT_S, retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("1.5", 1.5),
        ("9" * 5000, LONGEST_WAIT_S),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_WAIT_S),
        ("Fri, 31 Dec 9999 23:59:59 -1200", LONGEST_WAIT_S),
        ("Mon, 01 Jan 0001 00:00:00 +1200", 0),
        ("Mon, 01 Jan 2001 00:00:00 -0000", 0),
        ("Mon, 01 Jan 2001 00:00:00 +9999", None),
        *[(value, None) for value in (None, "", "soon", "-5", "nan", "inf", "1e999", "1_000", "٣", "0x10")],
    ],
)
def test_seconds_or_a_date_and_a_day_at_most(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_a_date_is_of_its_own_zone() -> None:
    for zone in (UTC, timezone(timedelta(hours=-12)), timezone(timedelta(hours=9))):
        later = datetime.now(zone) + timedelta(hours=1)
        assert 3500 < (retry_after(format_datetime(later)) or 0) <= 3600


@given(st.text() | st.from_regex(r"\w{3}, \d{1,5} \w{3} \d{1,6} \d\d:\d\d:\d\d [+-]?\w{1,5}"))
def test_any_header_is_a_bounded_wait_or_none(value: str) -> None:
    wait = retry_after(value)
    assert wait is None or 0 <= wait <= LONGEST_WAIT_S
