"""The server of the page: who gets what, and who gets nothing."""

import http.client
import threading
from collections.abc import Iterator

import pytest

from poscon.errors import PosconError
from poscon.viewer.server import HOST, Resource, ViewServer


def _broken() -> bytes:
    raise PosconError("scan.nii: cannot be read; fetch it again")


TABLE = {
    "": Resource("text/html", lambda: b"<p>page"),
    "case-0.nii": Resource("application/octet-stream", lambda: b"voxels"),
    "broken.nii": Resource("application/octet-stream", _broken),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ViewServer]:
    with ViewServer(TABLE) as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def ask(
    server: ViewServer, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"{HOST}:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    result = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return result


def test_what_is_in_the_table_is_served(server: ViewServer) -> None:
    assert server.url == f"http://127.0.0.1:{server.server_port}/{server.token}/"
    status, content, headers = ask(server, f"/{server.token}/")
    assert (status, content) == (200, b"<p>page")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert ask(server, f"/{server.token}/case-0.nii?again")[:2] == (200, b"voxels")
    assert ask(server, f"/{server.token}/", host=f"localhost:{server.server_port}")[0] == 200


def test_nothing_comes_from_elsewhere(server: ViewServer) -> None:
    headers = ask(server, f"/{server.token}/")[2]
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers


def test_head_has_the_length_and_no_content(server: ViewServer) -> None:
    status, content, headers = ask(server, f"/{server.token}/case-0.nii", "HEAD")
    assert (status, content, headers["Content-Length"]) == (200, b"", "6")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/case-0.nii",
        "/{wrong}/case-0.nii",
        "//case-0.nii",
        "/{token}",
        "/{token}/case-1.nii",
        "/{token}/../../etc/passwd",
        "/{token}/%2e%2e/%2e%2e/etc/passwd",
        "/{token}//etc/passwd",
        "/{token}/index.html",
        "/{token}/case-0.nii/",
        "case-0.nii",
    ],
)
def test_nothing_else_is_served(server: ViewServer, path: str) -> None:
    wrong = server.token[:-1] + ("a" if server.token[-1] != "a" else "b")
    asked = path.format(token=server.token, wrong=wrong)
    assert ask(server, asked)[:2] == (404, b"nothing here\n")


def test_a_token_of_other_letters_is_just_wrong(server: ViewServer) -> None:
    assert server.find("/\u00e9/case-0.nii") is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1"]
)
def test_another_host_name_is_refused(server: ViewServer, host: str) -> None:
    """A page from elsewhere may have a name that leads to this machine (DNS rebinding)."""
    asked = host.format(port=server.server_port)
    assert ask(server, f"/{server.token}/", host=asked)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(server: ViewServer, method: str) -> None:
    assert ask(server, f"/{server.token}/", method)[0] == 501


def test_what_cannot_be_read_is_one_line(server: ViewServer) -> None:
    status, content, _ = ask(server, f"/{server.token}/broken.nii")
    assert (status, content) == (422, b"scan.nii: cannot be read; fetch it again")


def test_it_listens_on_this_machine_only(server: ViewServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_every_server_has_a_token_of_its_own() -> None:
    with ViewServer(TABLE) as one, ViewServer(TABLE) as other:
        assert one.token != other.token
        assert min(len(one.token), len(other.token)) >= 32


def test_a_port_in_use_is_one_line(server: ViewServer) -> None:
    port = server.server_port
    with pytest.raises(PosconError, match=f"--port {port}: cannot be used, another program"):
        ViewServer(TABLE, port)
