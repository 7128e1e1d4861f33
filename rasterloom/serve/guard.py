"""Guard of the server: who may ask, for what, and what an answer may do in a browser.

Listening on 127.0.0.1 does not keep web pages out: one whose name is made to lead there (DNS rebinding) is
told by the Host header. A token that the command prints keeps other users of the machine out.
"""

import hmac
import ipaddress
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# A report is a page of its own, with its styles in it: no scripts, no forms, no way out of its tab.
REPORT_POLICY = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",  # what was taken down since is in no browser's cache
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
REFUSED = (
    '<!doctype html><html lang="en"><meta name="viewport" content="width=device-width">'
    "<title>Rasterloom</title><p>{}\n"
)
METHODS = ("GET", "HEAD")


@dataclass(frozen=True)
class Guard:
    """ASGI application that lets requests through to another."""

    app: ASGIApp
    token: str
    names: frozenset[str]
    """Names of the server, in lower case, beside addresses."""
    cookie: str
    """Name of the cookie: browsers send those of one port of a host to all ports."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the server's start and end; websockets are refused by the application
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, "Content-Security-Policy": POLICY}.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self.app)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        """Answer to a request that goes no further."""
        if not self._is_ours(request.headers.getlist("host")):
            return HTMLResponse(REFUSED.format("This server does not go by that name."), 421)
        given = request.query_params.get("token")
        if given is not None and self._is_token(given):
            answer = RedirectResponse("/", 303)  # the address in the browser is then without it
            answer.set_cookie(self.cookie, self.token, path="/", httponly=True, samesite="lax")
            return answer
        if not self._is_token(request.cookies.get(self.cookie, "")):
            return HTMLResponse(REFUSED.format("Open the address that rasterloom serve printed."), 403)
        if request.method not in METHODS:
            allowed = {"Allow": ", ".join(METHODS)}
            return HTMLResponse(REFUSED.format("Nothing can be changed here."), 405, allowed)
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _is_ours(self, hosts: list[str]) -> bool:
        """True of one Host header, of an address or a server's name."""
        name = host_of(hosts[0]) if len(hosts) == 1 else ""
        return name in self.names or _is_address(name)


def host_of(header: str) -> str:
    """Name or address in a Host header. Empty if it is malformed."""
    if header.startswith("["):
        address, bracket, port = header[1:].partition("]")
        is_whole = bracket and (not port or (port[0] == ":" and port[1:].isdecimal()))
        return address if is_whole else ""
    name, colon, port = header.partition(":")
    return name.lower() if not colon or port.isdecimal() else ""


def _is_address(name: str) -> bool:
    """True of an IP address, which no name server answers for."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
