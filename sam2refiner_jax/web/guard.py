"""What of the server can be asked for, by whom, and with how much: the routes that the page needs, and no other."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["Guard"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Gradio has routes that keep uploads in files, hand out files, and fetch addresses; the page does without them.
ALLOWED = {
    "GET": re.compile(
        r"/(config|theme\.css|favicon\.ico|manifest\.json|(assets|static|svelte)/.*"
        r"|gradio_api/(queue/data|heartbeat/\w+|startup-events))?"
    ),
    "HEAD": re.compile(r"/"),
    "POST": re.compile(r"/gradio_api/(queue/join|cancel|reset/?)"),
    "PUT": re.compile(r"/upload"),
}
# What a request that is no upload may have, in bytes.
MOST_BYTES = 2**16
# The browser itself asks nobody else for anything.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self' data:; font-src 'self' data:; frame-ancestors 'none'; base-uri 'self'; form-action 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class TooLarge(Exception):  # noqa: N818
    """A request has more bytes than it may have."""


class Guard:
    """An application that passes on what the page needs, and refuses the rest.

    Requests must come to this machine by its own name, so that no other site can lead a browser here under its name,
    and from the page itself where the browser says from where.

    Args:
      app: what is guarded.
      upload_bytes: what an upload may have.
    """

    def __init__(self, app: Any, upload_bytes: int):
        self._app = app
        self._upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        most = self._upload_bytes if scope["method"] == "PUT" else MOST_BYTES
        refusal = _refusal(scope, most)
        if refusal:
            await _refuse(send, *refusal)
            return
        has_begun = False

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message = {**message, "headers": [*message.get("headers", []), *_headers()]}
            await send(message)

        try:
            await self._app(scope, _bounded(receive, most), answer)
        except TooLarge:
            if not has_begun:
                await _refuse(send, 413, _too_large(most))


def _refusal(scope: Scope, most: int) -> tuple[int, str] | None:
    """The status and the reason why a request is refused by its head alone; None if it is not."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get("host", "")
    if host.rpartition(":")[0] not in ("127.0.0.1", "localhost"):
        return 400, "The address must be http://127.0.0.1 with the port."
    if headers.get("origin", f"http://{host}") != f"http://{host}":
        return 403, "Only the page itself may ask."
    allowed = ALLOWED.get(scope["method"])
    if allowed is None or not allowed.fullmatch(scope["path"]):
        return 404, "There is nothing here."
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        return 413, _too_large(most)
    return None


def _bounded(receive: Receive, most: int) -> Receive:
    """The body of a request, up to so many bytes."""
    received = 0

    async def bounded() -> MutableMapping[str, Any]:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise TooLarge
        return message

    return bounded


def _too_large(most: int) -> str:
    return f"{most / 2**20:.0f} MB are the most." if most >= 2**20 else f"{most} bytes are the most."


def _headers() -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in HEADERS.items()]


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_headers()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
