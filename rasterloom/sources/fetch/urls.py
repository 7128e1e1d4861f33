"""URLs as browsers read them: what is valid is sent as it stands.

Servers sign the request target or take it apart by its escapes, so ``%27`` is not ``'`` to them. yarl would
rewrite such escapes; here it reads hosts and ports alone.
"""

import re
from urllib.parse import unquote

from yarl import URL

WEB = ("http", "https")

_BLANKS = "".join(map(chr, range(0x21)))  # C0 controls and the space
_DROPPED = re.compile(r"[\t\r\n]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# What may stand in a path and in a query of a request; `%` does, whatever follows it, as in browsers.
_UNSAFE_IN_PATH = re.compile(rb"[^!$%&'()*+,\-./0-9:;=@A-Z\[\]_a-z|~]")
_UNSAFE_IN_QUERY = re.compile(rb"[^!$%&'()*+,\-./0-9:;=?@A-Z\[\]\\^_`a-z{|}~]")
_DOTS = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)


def parse_url(address: str) -> URL:
    """Read the URL of an image.

    Blanks around it, tabs and line ends in it, a login and a fragment are dropped, ``.`` and ``..`` of its
    path are resolved, and what a request cannot hold is escaped as UTF-8. All else stays as it is.

    Raises:
        ValueError: it is no URL.
    """
    address = _DROPPED.sub("", address.strip(_BLANKS))
    scheme = _SCHEME.match(address)
    if scheme is None or scheme[1].lower() not in WEB:
        return URL(address)
    rest, _, _ = address[scheme.end() :].partition("#")
    rest, mark, query = rest.partition("?")
    rest = rest.replace("\\", "/")
    authority, slash, path = rest.removeprefix("//").partition("/") if rest.startswith("//") else ("", "", "")
    host = URL(f"{scheme[1].lower()}://{_plain_host(authority.rpartition('@')[2])}")
    path = _escaped(_without_dots(slash + path), _UNSAFE_IN_PATH) or "/"
    return URL.build(
        scheme=host.scheme,
        authority=host.raw_authority,
        path=path if query else path + mark,  # of an empty query the mark is sent too
        query_string=_escaped(query, _UNSAFE_IN_QUERY),
        encoded=True,
    )


def join_url(url: URL, location: str) -> URL:
    """Read where a redirect leads.

    Args:
        location: the header, decoded as UTF-8 with "surrogateescape": other bytes are escaped as they are.

    Raises:
        ValueError: it is no URL.
    """
    location = _DROPPED.sub("", location.strip(_BLANKS))
    if _SCHEME.match(location):
        return parse_url(location)
    start = location[:2].replace("\\", "/")
    if start == "//":
        return parse_url(f"{url.scheme}:{location}")
    path = url.raw_path.partition("?")[0]
    if not start or start[0] == "#":
        base = url.raw_path_qs
    elif start[0] == "?":
        base = path
    else:
        base = "" if start[0] == "/" else path[: path.rindex("/") + 1]
    return parse_url(f"{url.scheme}://{url.raw_authority}{base}{location}")


def canonical(url: URL) -> URL:
    """Return a URL with yarl's escapes, to compare it with others."""
    try:
        return URL(str(url))
    except ValueError:
        return url


def _plain_host(host: str) -> str:
    """Return a host without escapes."""
    plain = host if host.startswith("[") else unquote(host)
    if plain != host and set(plain) & set("/?#@\\:[]%"):
        raise ValueError(f"{host} is no host")
    return plain


def _escaped(text: str, unsafe: re.Pattern[bytes]) -> str:
    data = text.encode("utf-8", "surrogateescape")
    return unsafe.sub(lambda found: b"%%%02X" % found[0][0], data).decode("ascii")


def _without_dots(path: str) -> str:
    if not _DOTS.search(path):
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for number, segment in enumerate(segments):
        dots = segment.lower().replace("%2e", ".")
        if dots not in (".", ".."):
            kept.append(segment)
            continue
        if dots == "..":
            del kept[-1:]
        if number == len(segments) - 1:
            kept.append("")
    return "/" + "/".join(kept)
