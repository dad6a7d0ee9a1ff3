"""What stands before the application: other sites are refused, and a browser is told to load
nothing from elsewhere.

A page on another site can make a browser send requests here. Its ``Origin`` gives it away; where
it has bound its own name to our address, ``Host`` does. Usage: ``app = Guard(app, "127.0.0.1")``.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("0.0.0.0", "::")  # addresses that stand for all of the machine's
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Guard:
    """An application that answers its own page alone.

    ``host`` is the address that it is served on. Where that is a wildcard, any address is right
    in ``Host``, but no name: an attacker can't bind an address.
    """

    def __init__(self, app: ASGIApp, host: str):
        self.app, self.host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self._refusal(Headers(scope=scope), scope["scheme"]) or self.app
        await app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers, scheme: str) -> JSONResponse | None:
        """The answer to a request from elsewhere; None to our own."""
        host = headers.get("host", "")
        if not self._is_ours(_name_of(host)):
            reason = f"Host is {host!r}, expected this server's address"
            return JSONResponse({"field": "Host", "error": reason}, 421)
        origin = headers.get("origin")
        if origin is not None and origin != f"{scheme}://{host}":
            reason = f"Origin is {origin!r}, expected this server's own page"
            return JSONResponse({"field": "Origin", "error": reason}, 403)
        return None

    def _is_ours(self, name: str) -> bool:
        if self.host in WILDCARDS and _is_address(name):
            return True
        return name in (*LOOPBACK, self.host.lower())


def _name_of(host: str) -> str:
    """Without port and brackets; empty for what is no host."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
