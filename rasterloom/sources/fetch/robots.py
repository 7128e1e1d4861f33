"""Robots rules of a site: robots.txt (RFC 9309) and X-Robots-Tag."""

import math
from collections.abc import Container, Iterable

from protego import Protego

MAX_ROBOTS_BYTES = 500 * 1024  # RFC 9309, 2.5: a crawler reads at least so much

WITH_VALUES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")  # not robots


def product_token(user_agent: str) -> str:
    """Return the name that robots.txt groups are matched by: ``rasterloom`` of ``rasterloom/0.1 (+...)``."""
    return user_agent.split("/")[0].split(" ")[0].lower()


def parse_robots(body: bytes) -> Protego:
    """Read a robots.txt. What cannot be read as a rule is no rule."""
    return Protego.parse(body[:MAX_ROBOTS_BYTES].decode("utf-8-sig", "replace"))


def crawl_delay(rules: Protego, user_agent: str) -> float:
    """Return the least seconds between two requests, by Crawl-delay or Request-rate. 0 without either."""
    name = product_token(user_agent)
    rate = rules.request_rate(name)
    delays = [rules.crawl_delay(name) or 0.0, rate.seconds / rate.requests if rate and rate.requests else 0.0]
    return max(delay for delay in (*delays, 0.0) if math.isfinite(delay))


def opt_out(headers: Iterable[str], user_agent: str, tags: Container[str]) -> str | None:
    """Return the X-Robots-Tag directive against use of the answer, or None.

    A header is a list of directives, after ``name:`` for one robot alone: ``noindex, noai``,
    ``otherbot: noai``. The directives are those of a page's ``<meta name="robots">``; ``none`` stands for
    ``noindex, nofollow``. Only those in ``tags`` count.
    """
    for header in headers:
        robot = ""
        for part in header.lower().split(","):
            name, colon, rest = part.partition(":")
            if colon and name.strip() not in WITH_VALUES:
                robot, part = name.strip(), rest
            directive = part.strip()
            asks = directive in tags or (directive == "none" and "noindex" in tags)
            if asks and robot in ("", "*", product_token(user_agent)):
                return directive
    return None
