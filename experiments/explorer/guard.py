"""Who may talk to the explorer: this machine's own browser, or one that knows the token.

A page of another site can make a browser send requests here; it cannot choose their Origin, nor the Host they name.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from aiohttp import web

COOKIE = "explorer_token"
_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Checks requests."""

    def __init__(self, host: str, token: str | None):
        """Of the host that is listened on, and the token that must be known, if any."""
        self._token = token
        self._hosts = None if token else {*_NAMES, host}

    def check(self, request: web.Request) -> None:
        """Raises `HTTPForbidden` where the Host, the Origin or the token is wrong."""
        host = urlsplit(f"//{request.host}").hostname or ""
        if self._hosts is not None and host not in self._hosts:
            raise web.HTTPForbidden(text=f"this explorer answers at {', '.join(sorted(self._hosts))} only")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="requests from pages of other sites are refused")
        if self._token is not None and not self._knows(request):
            raise web.HTTPForbidden(text="the address lacks the token: open the one that the command printed")

    def _knows(self, request: web.Request) -> bool:
        given = request.query.get("token") or request.cookies.get(COOKIE) or ""
        return hmac.compare_digest(given.encode(), (self._token or "").encode())

    def remember(self, response: web.StreamResponse) -> None:
        """Lets the page that was opened with the token ask for more without it in every address."""
        if self._token is not None:
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="Strict")
