"""What the server answers at all: the page's own routes, to the page itself, with bounded bodies."""

import asyncio

import pytest

from sam2refiner_jax.web.guard import MOST_BYTES, Guard

HOST = (b"host", b"127.0.0.1:7860")


async def echo(scope, receive, send):
    """Answers with the number of bytes that came."""
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-inner", b"1")]})
    await send({"type": "http.response.body", "body": str(length).encode()})


def ask(method, path, *chunks, headers=(HOST,), upload_bytes=1000):
    """The status, the headers and the body of an answer."""
    bodies = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks[:-1]]
    bodies.append({"type": "http.request", "body": chunks[-1] if chunks else b"", "more_body": False})
    sent = []

    async def receive():
        return bodies.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(Guard(echo, upload_bytes)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/theme.css"),
        ("GET", "/assets/index-abc.js"),
        ("GET", "/gradio_api/heartbeat/abc1"),
        ("GET", "/gradio_api/queue/data"),
        ("POST", "/gradio_api/queue/join"),
        ("PUT", "/upload"),
    ],
)
def test_the_page_is_answered_and_kept_from_asking_elsewhere(method, path):
    status, headers, _ = ask(method, path)
    assert status == 200
    assert headers[b"x-inner"] == b"1"
    assert b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file=http://example.com/x.png"),
        ("GET", "/gradio_api/proxy=http://example.com"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/call/click"),
        ("POST", "/gradio_api/run/click"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/upload_progress"),
        ("GET", "/monitoring"),
        ("GET", "/upload"),
        ("PUT", "/"),
        ("DELETE", "/"),
        ("GET", "/config/../gradio_api/info"),
    ],
)
def test_other_routes_are_not_there(method, path):
    assert ask(method, path)[0] == 404


def test_only_this_machines_name_and_the_page_itself_are_answered():
    assert ask("GET", "/", headers=[(b"host", b"localhost:7860")])[0] == 200
    for host in (b"example.com", b"example.com:7860", b"127.0.0.1.example.com:7860", b""):
        assert ask("GET", "/", headers=[(b"host", host)])[0] == 400
    assert ask("PUT", "/upload", headers=[HOST, (b"origin", b"http://127.0.0.1:7860")])[0] == 200
    for origin in (b"http://example.com", b"null", b"http://127.0.0.1:9999"):
        assert ask("PUT", "/upload", headers=[HOST, (b"origin", origin)])[0] == 403


def test_bodies_are_bounded_whether_or_not_they_say_their_length():
    assert ask("PUT", "/upload", b"x" * 1000)[2] == b"1000"
    assert ask("PUT", "/upload", headers=[HOST, (b"content-length", b"1001")])[0] == 413
    status, _, body = ask("PUT", "/upload", b"x" * 600, b"x" * 600)
    assert (status, body) == (413, b"1000 bytes are the most.")
    assert ask("POST", "/gradio_api/queue/join", b"x" * (MOST_BYTES + 1))[0] == 413
    assert ask("PUT", "/upload", headers=[HOST, (b"content-length", b"many")])[0] == 413
    status, _, body = ask("PUT", "/upload", headers=[HOST, (b"content-length", b"9" * 12)], upload_bytes=5 * 2**20)
    assert (status, body) == (413, b"5 MB are the most.")
