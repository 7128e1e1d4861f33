"""The command ``serve``."""

from contextlib import suppress
from typing import Annotated

import typer

from rasterloom.cli.options import RecipePath, load_recipe, out
from rasterloom.errors import UserError
from rasterloom.utils.sigterm import sigterm


def serve_command(
    recipe: RecipePath,
    host: Annotated[str, typer.Option(metavar="HOST", help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0: a free one.")] = 0,
) -> None:
    """Serve pages to look at a corpus: images by filters, the keep rule, runs, reports.

    It prints the address to open, with a token that changes at each start.
    The pages change nothing; Ctrl-C ends the server.
    """
    try:
        from rasterloom.serve.server import serving  # heavy
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise UserError(f"serve takes {error.name}: pip install 'rasterloom[serve]'") from None

    loaded = load_recipe(recipe)
    with out.status("reading the tables") as status, serving(loaded, host, port) as served:
        status.stop()
        print(f"Serving at {served.url}", flush=True)  # as it is: the console would mask the token
        if not served.is_private:
            out.print("Whoever has that address reads the corpus, and nothing is encrypted.")
        sigterm.heed()  # ends it as Ctrl-C does: tidily
        with suppress(KeyboardInterrupt):
            served.run()
    out.print("Stopped.")
