"""Numbers and errors as a person reads them."""

from rasterloom.masking import cut
from rasterloom.schema import ErrorClass

ERRORS = {
    ErrorClass.BAD_URL: "not a URL",
    ErrorClass.BAD_CAPTION: "no usable caption",
    ErrorClass.BAD_ROW: "a record that is no pair",
    ErrorClass.BLOCKED_SCHEME: "neither http nor https",
    ErrorClass.BLOCKED_ADDRESS: "a private address",
    ErrorClass.OPT_OUT: "on the opt-out list",
    ErrorClass.TAKEN_DOWN: "taken down",
    ErrorClass.ROBOTS: "forbidden by the site",
    ErrorClass.DNS: "host not found",
    ErrorClass.CONNECT: "no connection",
    ErrorClass.TLS: "no trustworthy certificate",
    ErrorClass.TIMEOUT: "took too long",
    ErrorClass.HTTP_4XX: "refused or gone",
    ErrorClass.HTTP_429: "too many requests",
    ErrorClass.HTTP_5XX: "the server failed",
    ErrorClass.HOST_DOWN: "the host was down",
    ErrorClass.HOST_BUSY: "the host asked for patience",
    ErrorClass.TOO_MANY_REDIRECTS: "too many redirects",
    ErrorClass.TOO_MANY_BYTES: "too many bytes",
    ErrorClass.TOO_MANY_PIXELS: "too many pixels",
    ErrorClass.INCOMPLETE: "cut off on the way",
    ErrorClass.MISSING_FILE: "the file is gone",
    ErrorClass.UNREADABLE_FILE: "the file cannot be read",
    ErrorClass.BLOCKED_PATH: "outside the source's folder",
    ErrorClass.HASH_MISMATCH: "another file than expected",
    ErrorClass.NOT_AN_IMAGE: "not an image",
    ErrorClass.BROKEN_IMAGE: "an image that cannot be decoded",
    ErrorClass.INTERNAL: "an error of ours",
}


def plain(text: str | None, limit: int = 300) -> str:
    """Text of unknown origin in one line, fit to be shown and cut to ``limit``."""
    return cut(text or "", limit)


def count(number: float) -> str:
    """1234567 as ``1,234,567``."""
    return f"{round(number):,}"


def short(number: float) -> str:
    """1234567 as ``1.23 M``: for headlines, exact below 100,000."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e5, "k")):
        if abs(number) >= size:
            scaled = number / (1e3 if unit == "k" else size)
            return f"{figure(scaled)} {unit}"
    return count(number)


def percent(part: float, whole: float) -> str:
    """A share in percent that says 0 and 100 only where it is exactly that."""
    if whole <= 0:
        return "–"
    share = 100 * part / whole
    if share == 0 or share == 100:
        return f"{share:.0f} %"
    if share < 0.1:
        return "< 0.1 %"
    if share > 99.9:
        return "> 99.9 %"
    return f"{share:.1f} %"


def size(number: float) -> str:
    """Bytes in decimal units: ``12.3 MB``."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if abs(number) < 999.5 or unit == "TB":
            return f"{figure(number)} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """``0.4 s``, ``3 min 12 s`` or ``2 h 5 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{count(hours)} h {minutes} min" if minutes else f"{count(hours)} h"


def figure(value: float) -> str:
    """A measured value in three to four significant digits, without an exponent where it is short."""
    return count(value) if abs(value) >= 1000 else f"{value:.3g}"


def error(name: str | None) -> str:
    """What a class of error means, its own name if it is unknown."""
    return ERRORS.get(name or "", name or "unknown")  # type: ignore[call-overload, no-any-return]
