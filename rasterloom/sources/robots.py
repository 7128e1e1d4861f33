"""What a site says about robots: robots.txt (RFC 9309) and the X-Robots-Tag header."""

from collections.abc import Iterable

from protego import Protego

MAX_ROBOTS_BYTES = 500 * 1024  # RFC 9309, 2.5: a crawler reads at least so much
OPT_OUTS = frozenset({"noai", "noimageai", "noml"})


def product_token(user_agent: str) -> str:
    """Return the name that robots.txt groups are matched by: ``rasterloom`` of ``rasterloom/0.1 (+...)``."""
    return user_agent.split("/")[0].split(" ")[0].lower()


def parse_robots(body: bytes) -> Protego:
    """Read a robots.txt; what cannot be read as a rule is no rule."""
    return Protego.parse(body[:MAX_ROBOTS_BYTES].decode("utf-8", "replace"))


def opt_out(headers: Iterable[str], user_agent: str) -> str | None:
    """Return the directive of X-Robots-Tag headers that asks not to train on the answer, or None.

    A header is a list of directives, after ``name:`` for one robot alone: ``noindex, noai``,
    ``otherbot: noai``.
    """
    for header in headers:
        robot = ""
        for part in header.lower().split(","):
            name, colon, rest = part.partition(":")
            if colon and name.strip() not in ("unavailable_after", "max-snippet", "max-image-preview"):
                robot, part = name.strip(), rest
            if part.strip() in OPT_OUTS and robot in ("", "*", product_token(user_agent)):
                return part.strip()
    return None
