"""Last sentence of a process that cannot print one itself.

It was killed, or ended by the C++ code of a library.
"""

import atexit
import os
import subprocess
from contextlib import suppress

# It waits for a line, and speaks if the other end of the pipe closes without one.
_WAIT = 'trap "" INT TERM; read -r line || printf "%s\\n" "$0" >&2'


class LastWords:
    """Speaker beside this process. One that is not wanted says nothing."""

    def __init__(self) -> None:
        self.is_wanted = False
        self._armed = False
        self._speaker: tuple[int, subprocess.Popen[bytes]] | None = None

    def arm(self, sentence: str) -> None:
        """Have a sentence printed if this process skips its exit handlers."""
        if not self.is_wanted or self._armed:
            return
        self._armed = True
        end, ours = os.pipe()
        with suppress(OSError):  # no shell: nothing is said
            speaker = subprocess.Popen(
                ["/bin/sh", "-c", _WAIT, sentence], stdin=end, stdout=subprocess.DEVNULL
            )
            self._speaker = ours, speaker
            atexit.register(self.dismiss)
        os.close(end)

    def dismiss(self) -> None:
        """Leave the sentence unsaid."""
        if self._speaker is None:
            return
        (end, speaker), self._speaker = self._speaker, None
        with suppress(BrokenPipeError):
            os.write(end, b"\n")
        os.close(end)
        speaker.wait()


last_words = LastWords()
