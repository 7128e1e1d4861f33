"""Memory that this machine, or its container, has left."""

import math
import re
from pathlib import Path

MACHINE, CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")  # of Linux, the latter version 2


def free_memory(machine: Path = MACHINE, container: Path = CONTAINER) -> float:
    """Bytes that are free, or become so when they are asked for. Infinite where the system does not say.

    Args:
        machine: what Linux tells of its memory.
        container: the folder of this process's control group, whose limit may be lower.
    """
    found = re.search(r"^MemAvailable: +(\d+) kB", _text(machine), re.MULTILINE)
    free = 1024.0 * int(found[1]) if found else math.inf
    limit, used = _text(container / "memory.max").strip(), _text(container / "memory.current").strip()
    if not limit.isdigit() or not used.isdigit():
        return free
    cached = re.search(r"^inactive_file (\d+)", _text(container / "memory.stat"), re.MULTILINE)
    return min(free, int(limit) - int(used) + (int(cached[1]) if cached else 0))


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""
