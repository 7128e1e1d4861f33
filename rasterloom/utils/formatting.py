"""Numbers and moments as a person reads them."""

from datetime import datetime

from rasterloom.utils.redact import cut


def clock(seconds: float) -> str:
    """``0:07``, ``4:10``, ``1:02:03`` or ``2 d 3 h``."""
    whole = round(seconds)
    if whole >= 86_400:
        return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def moment(text: str) -> str:
    """Date and time of a record: ``1 May 2026, 12:30 UTC``; empty if there is none."""
    return of_time(datetime.fromisoformat(text)) if text else ""


def of_time(time: datetime) -> str:
    """A time in UTC as `moment` writes it."""
    return f"{time.day} {time:%b %Y, %H:%M} UTC"


def usd(amount: float) -> str:
    """``$12.30``: four digits below a dollar, none above a thousand."""
    digits = 4 if amount < 1 else 2 if amount < 1000 else 0
    return f"${amount:,.{digits}f}"


def plain(text: str | None, limit: int = 300) -> str:
    """Untrusted text in one line, cut to ``limit``."""
    return cut(text or "", limit)


def count(number: float) -> str:
    """1234567 as ``1,234,567``."""
    return f"{round(number):,}"


def counted(name: str, number: int) -> str:
    """``kept 7``; after a digit with a colon: ``rule: min_side >= 256: 40``."""
    return f"{name}{':' if name[-1:].isdigit() else ''} {number:,}"


def short(number: float) -> str:
    """1234567 as ``1.23 M``: for headlines, exact below 100,000."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e5, "k")):
        if abs(number) >= size:
            scaled = number / (1e3 if unit == "k" else size)
            return f"{figure(scaled)} {unit}"
    return count(number)


def percent(part: float, whole: float) -> str:
    """Percentage that shows 0 and 100 only where exact."""
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
    """Bytes in decimal units, as disks and S3 are sold: ``1.4 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


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
    """Measured value in three to four significant digits."""
    return count(value) if abs(value) >= 1000 else f"{value:.3g}"
