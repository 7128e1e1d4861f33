"""Runs commands one after another in one process: ``every_command.py FILE.json`` of lists of arguments.

A line of its own before each names its number; the exit codes go to FILE.codes.json.
"""

import json
import os
import sys
from pathlib import Path

from rasterloom.cli import app

BEFORE = "=====command {}=====\n"


def main(file: Path) -> None:
    codes = []
    for number, arguments in enumerate(json.loads(file.read_text())):
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(1, BEFORE.format(number).encode())
        sys.argv = ["rasterloom", *arguments]
        codes.append(app.run())
    sys.stdout.flush()
    file.with_suffix(".codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
