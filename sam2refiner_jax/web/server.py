"""The server of the page, on this machine alone."""

import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse

from ..sam2 import SAM2
from .guard import Guard
from .layout import build_page
from .limits import Limits
from .state import PageState

__all__ = ["Server", "listen"]

HOST = "127.0.0.1"
# Gradio tells nobody that it runs, and keeps no list of what was asked of it.
GRADIO_SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),
}
# How often what nobody uses is looked for, and how long open connections are waited for at the end, in seconds.
PURGE_SECONDS, LAST_SECONDS = 15.0, 1


def listen(port: int) -> socket.socket:
    """The socket that the server will listen on, this machine's alone.

    Args:
      port: its number; 0 for any that is free.

    Raises:
      ValueError: if it is no port, or something else listens there.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be in [0, 65535], got {port}")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ValueError(f"port {port} cannot be listened on ({error.strerror}); choose another: --port") from error
    return listener


class Server:
    """The page and what serves it; nothing is answered before `run`.

    Args:
      model: answers the clicks.
      listener: of `listen`.
      limits: of what is uploaded and held.

    Attributes:
      url: where the page is.
      state: what the page's requests share.
    """

    def __init__(self, model: SAM2, listener: socket.socket, limits: Limits):
        self.state = PageState(model, limits)
        self.url = "http://{}:{}".format(*listener.getsockname())
        self._listener = listener
        app = Guard(_application(self.state), limits.upload_bytes)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=LAST_SECONDS)
        self._server = _Interruptible(config)

    def run(self) -> None:
        """Answers until the process is told to end, or `stop` is called.

        Raises:
          KeyboardInterrupt: after ctrl-C.
        """
        ended = threading.Event()
        threading.Thread(target=self._purge, args=(ended,), daemon=True).start()
        try:
            self._server.run(sockets=[self._listener])
        finally:
            ended.set()
            self._listener.close()
        if self._server.interrupted:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Has `run` end soon."""
        self._server.should_exit = True

    def _purge(self, ended: threading.Event) -> None:
        while not ended.wait(PURGE_SECONDS):
            self.state.pages.purge()
            self.state.uploads.purge()


class _Interruptible(uvicorn.Server):
    """Remembers ctrl-C: what uvicorn raises again at its end can get lost in what is being torn down there."""

    interrupted = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or sig == signal.SIGINT
        super().handle_exit(sig, frame)


def _application(state: PageState) -> FastAPI:
    """The page's routes: where a file is sent, and Gradio's."""
    os.environ.update(GRADIO_SETTINGS)
    app = FastAPI(openapi_url=None)

    @app.put("/upload")
    async def upload(request: Request) -> PlainTextResponse:
        """Holds a file's bytes, which have no name and are written nowhere, and answers with their ticket."""
        data = await request.body()
        return PlainTextResponse(await run_in_threadpool(state.uploads.put, data))

    settings: dict[str, Any] = {"ssr_mode": False, "mcp_server": False, "enable_monitoring": False, "pwa": False}
    return gr.mount_gradio_app(
        app, build_page(state), path="/", show_error=False, run_history=False, footer_links=[], **settings
    )
