"""Hook of mkdocs for what GitHub shows and mkdocs does not.

Links from the docs to other files of the repository lead to the repository's page of them, and a block's
second word, which the tests of the docs read, is taken away.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHECKED = re.compile(r"^(\s*```\w+) checked$", re.MULTILINE)
OUTSIDE = re.compile(r"\]\(\.\./([^)#]*)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Replace the targets of such links, and such blocks' first lines.

    Raises:
        FileNotFoundError: there is no such file.
    """
    markdown = CHECKED.sub(r"\1", markdown)
    return OUTSIDE.sub(
        lambda link: f"]({address(link[1], config.extra['repository'])}{link[2] or ''})", markdown
    )


def address(path: str, repository: str) -> str:
    """The page of a file or folder in the repository."""
    kind = "tree" if (ROOT / path).resolve(strict=True).is_dir() else "blob"
    return f"{repository}/{kind}/main/{path}"
