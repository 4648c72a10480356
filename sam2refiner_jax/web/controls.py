"""What the page's tabs are made of in Gradio: the canvas, and how a control asks and is answered.

Importing it imports Gradio, which the extra `web` brings.
"""

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from .limits import Limits, Refused

__all__ = ["OFF", "ON", "Said", "answers", "canvas", "field", "listen", "page_of", "share"]

# What the next click is.
ON, OFF = "on the object", "off it"
HERE = Path(__file__).parent

# What the canvas is told; canvas.js says what each field does.
Said = dict[str, Any]


def answers(handler: Callable[..., Said]) -> Callable[..., Said]:
    """A handler of a tab whose refusals are told on the page; each answer has a number of its own."""
    serials = itertools.count(1)

    @functools.wraps(handler)
    def answer(*args: Any, **kwargs: Any) -> Said:
        try:
            said = handler(*args, **kwargs)
        except Refused as refusal:
            said = {"note": str(refusal)}
        return {"serial": f"{handler.__name__}{next(serials)}", **said}

    return answer


def share(event: gr.EventData, name: str) -> float:
    """A place in the photo that the browser sent, as a share of its side."""
    value = event._data.get(name) if isinstance(event._data, dict) else None
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused("That click says no place.")
    return min(max(float(value), 0.0), 1.0)


def field(event: gr.EventData, name: str) -> Any:
    """What else the browser sent."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def page_of(request: gr.Request) -> str:
    """The name that the browser gave the page that asks, of a length that it cannot choose."""
    return str(request.session_hash)[:64]


def canvas(limits: Limits, accept: str, invitation: str) -> gr.HTML:
    """Where the photo or the video is chosen, shown and clicked."""
    return gr.HTML(
        html_template=(HERE / "canvas.html").read_text(),
        css_template=(HERE / "canvas.css").read_text(),
        js_on_load=(HERE / "canvas.js").read_text(),
        apply_default_css=False,
        accept=accept,
        invitation=invitation,
        most=limits.upload_bytes,
    )


def listen(event: Any, handler: Callable[..., Said], inputs: list[Any], *, outputs: Any, **options: Any) -> None:
    """Has a handler answer an event; those that use the model take turns."""
    options = {
        "show_progress": "hidden",
        "trigger_mode": "multiple",
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "api_visibility": "private",
        **options,
    }
    event(handler, inputs, outputs, **options)
