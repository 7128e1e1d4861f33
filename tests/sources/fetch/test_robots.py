"""What a site says about robots."""

import pytest

from rasterloom.sources.fetch.robots import MAX_ROBOTS_BYTES, opt_out, parse_robots, product_token

AGENT = "rasterloom/0.1 (+https://example.org/contact)"


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ([], None),
        (["noindex"], None),
        (["noai"], "noai"),
        (["noindex, NoImageAI"], "noimageai"),
        (["nofollow", "noml"], "noml"),
        (["otherbot: noai"], None),
        (["otherbot: noindex, noai"], None),
        (["rasterloom: noai"], "noai"),
        (["otherbot: noindex, rasterloom: noai"], "noai"),
        (["*: noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
    ],
)
def test_x_robots_tag(headers: list[str], asked: str | None) -> None:
    assert opt_out(headers, AGENT, ("noai", "noimageai", "noml")) == asked


def test_rules_are_those_for_our_name() -> None:
    rules = parse_robots(b"User-agent: rasterloom\nDisallow: /a\n\nUser-agent: *\nDisallow: /\n")
    assert not rules.can_fetch("http://h/a/x.jpg", product_token(AGENT))
    assert rules.can_fetch("http://h/b/x.jpg", product_token(AGENT))


def test_what_is_no_text_is_no_rule_and_too_much_is_cut() -> None:
    assert parse_robots(bytes(range(256)) * 10).can_fetch("http://h/x", "rasterloom")
    late = b"#" * MAX_ROBOTS_BYTES + b"\nUser-agent: *\nDisallow: /\n"
    assert parse_robots(late).can_fetch("http://h/x", "rasterloom")
