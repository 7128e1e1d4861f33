"""Watch of a process and all below it: CPU, memory and bytes."""

from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Thread

import psutil

EVERY_S = 0.05


@dataclass
class Used:
    """Use of one process."""

    name: str
    cpu: float = 0.0
    read: int = 0
    written: int = 0
    peak: int = 0


@dataclass
class Watch:
    """Look at a process and its descendants until told to stop.

    What a process uses between the last look and its end is missed.
    """

    root: int
    limit: int
    """Bytes that no process may hold, resident."""
    used: dict[tuple[int, float], Used] = field(default_factory=dict)
    above: str = ""
    """The process that held more, if one did."""
    _before: tuple[float, int, int] = (0.0, 0, 0)

    def __post_init__(self) -> None:
        self._end = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def restart(self) -> None:
        """Count from here on: what the start of Ray and imports took is left out, peaks too."""
        self.look()
        self._before = self._sums()
        for one in self.used.values():
            one.peak = 0

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    @property
    def sums(self) -> tuple[float, int, int]:
        """CPU seconds, bytes read and bytes written, caches included."""
        cpu, read, written = (now - before for now, before in zip(self._sums(), self._before, strict=True))
        return cpu, int(read), int(written)

    @property
    def largest(self) -> Used:
        return max(self.used.values(), key=lambda one: one.peak)

    def _sums(self) -> tuple[float, int, int]:
        found = list(self.used.values())
        return sum(o.cpu for o in found), sum(o.read for o in found), sum(o.written for o in found)

    def _run(self) -> None:
        while not self._end.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.root)
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    self._look_at(process, "driver" if process.pid == self.root else "worker")

    def _look_at(self, process: psutil.Process, name: str) -> None:
        key = process.pid, process.create_time()
        if key not in self.used:
            known = process.name()
            self.used[key] = Used(known if known in ("raylet", "gcs_server") else name)
        one, cpu = self.used[key], process.cpu_times()
        one.cpu = cpu.user + cpu.system
        held = process.memory_info().rss
        if held:  # none of a process that has ended and was not waited for
            one.peak = max(one.peak, held)
        if one.name in ("driver", "worker"):
            counters = process.io_counters()
            one.read, one.written = counters.read_chars, counters.write_chars
        if held > self.limit and not self.above:
            self.above = f"{one.name} {process.pid} holds {held / 2**30:.2f} GiB"
