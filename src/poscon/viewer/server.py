"""The server of the page. It is reached from this machine only, and only by who has its URL.

It has a fixed table of names. No name is ever turned into a path, so no request reaches any other
file. It sends nothing to anyone else, and writes nothing.
"""

import errno
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from poscon.errors import PosconError

HOST = "127.0.0.1"
_TOKEN_BYTES = 24
_HEADERS = {
    # nothing is loaded from elsewhere; NiiVue has its fonts and pictures as data in its own file
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Resource:
    """What is served under a name.

    Attributes:
        kind: its media type.
        content: function that makes its bytes; it is called for every request.
    """

    kind: str
    content: Callable[[], bytes]


class ViewServer(ThreadingHTTPServer):
    """Serves a table of resources on this machine until it is closed.

    Args:
        resources: what is served, by name. The page itself has the empty name.
        port: port to listen on; None: a free one.

    Attributes:
        url: the address of the page. Its random part is needed for every request.

    Raises:
        PosconError: the port cannot be used.
    """

    daemon_threads = True

    def __init__(self, resources: Mapping[str, Resource], port: int | None = None) -> None:
        self.resources = dict(resources)
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        try:
            super().__init__((HOST, port or 0), _Handler)
        except (OSError, OverflowError) as error:
            used = getattr(error, "errno", None) == errno.EADDRINUSE
            reason = "another program uses it" if used else "this machine does not allow it"
            raise PosconError(
                f"--port {port}: cannot be used, {reason}; give another one, or leave it out"
            ) from error
        self.hosts = tuple(f"{name}:{self.server_port}" for name in (HOST, "localhost"))
        self.url = f"http://{self.hosts[0]}/{self.token}/"

    def find(self, path: str) -> Resource | None:
        """What a request for a path is answered with; None: nothing.

        Args:
            path: path of the URL, ``/TOKEN/NAME``.
        """
        _, token, *name = path.split("/", 2) if path.startswith("/") else ("", "")
        if not name or not hmac.compare_digest(token.encode(), self.token.encode()):
            return None
        return self.resources.get(name[0])


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: ViewServer
    server_version, sys_version = "poscon", ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            # another name that leads to this machine: a page from elsewhere asks
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"not by this name\n")
            return
        found = self.server.find(urlsplit(self.path).path)
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"nothing here\n")
            return
        try:
            content = found.content()
        except PosconError as error:
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, "text/plain", str(error).encode())
            return
        self._send(HTTPStatus.OK, found.kind, content)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not printed."""
