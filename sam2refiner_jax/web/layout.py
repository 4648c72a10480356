"""The page in Gradio: its tabs, what each control asks of the sessions, and what the canvas is told to show.

Importing it imports Gradio, which the extra `web` brings.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np

from ..data.masks import numbers_picture
from ..sam2 import SAM2
from .clip import ClipSession
from .limits import Limits, Refused, read_photo_bytes
from .photo import PhotoSession
from .pictures import at_size, data_url, encoded, jpeg, mask_png, overlay_png
from .sessions import Sessions, Turns, Uploads

__all__ = ["PageState", "build_page"]

TITLE = "sam2refiner"
ON, OFF, BOX = "on the object", "off it", "a box, by two corners"
COARSE, REFINED, BOTH = "coarse (blue)", "refined (red)", "both"
COARSE_COLOUR, REFINED_COLOUR = 1, 0  # in the palette, which a video's mask takes the first of
# Where everything is looked for at first, and what passes; these suit the model in the package.
POINTS_PER_SIDE, LEAST_IOU, LEAST_STABILITY = 16, 0.2, 0.7
# Requests that wait at most; each page has one or two.
WAITING_REQUESTS = 64
HERE = Path(__file__).parent

Said = dict[str, Any]
Number = int | float  # of a slider


@dataclasses.dataclass
class Opened:
    """What is open in a page."""

    photo: PhotoSession | None = None
    clip: ClipSession | None = None

    def release(self) -> None:
        """Ends what still runs for the page."""
        if self.clip is not None:
            self.clip.closed = True


class PageState:
    """What all requests share: the model, which one of them uses at a time, and what each page has open.

    Args:
      model: answers all of them.
      limits: of what is held.
    """

    def __init__(self, model: SAM2, limits: Limits):
        self.model = model
        self.limits = limits
        self.turns = Turns()
        self.uploads = Uploads()
        self.pages = Sessions(Opened, Opened.release, limits.pages, limits.idle_seconds)


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


class PhotoTab:
    """A photo in, clicks and a box, everything, the mask out."""

    def __init__(self, state: PageState):
        self._state = state
        refines = state.model.refiner is not None
        with gr.Row():
            with gr.Column(scale=3):
                shown = canvas(state.limits, "image/*", "Choose a photo, or drop one here")
            with gr.Column(scale=1, min_width=260):
                kind = gr.Radio([ON, OFF, BOX], value=ON, label="The next click is", elem_id="photo-kind")
                modes = [COARSE, REFINED, BOTH] if refines else [COARSE]
                mode = gr.Radio(modes, value=modes[len(modes) // 2], label="Mask", elem_id="photo-mode")
                with gr.Row():
                    undo = gr.Button("Undo", size="md", min_width=90, elem_id="photo-undo")
                    clear = gr.Button("Start anew", size="md", min_width=90, elem_id="photo-clear")
                save = gr.Button("Mask as PNG", size="md", elem_id="photo-save")
                with gr.Accordion("Everything", open=False):
                    points = gr.Slider(4, 32, value=POINTS_PER_SIDE, step=4, label="Points along each side")
                    iou = gr.Slider(0.0, 1.0, value=LEAST_IOU, label="Least predicted IoU")
                    stability = gr.Slider(0.0, 1.0, value=LEAST_STABILITY, label="Least stability")
                    everything = gr.Button("Find everything", size="md", elem_id="photo-everything")
        on = functools.partial(_listen, outputs=shown)
        on(shown.upload, self.open, [mode], show_progress="full")
        on(shown.click, self.click, [kind, mode])
        on(undo.click, self.undo, [mode])
        on(clear.click, self.clear, [mode])
        on(mode.input, self.show, [mode])
        on(save.click, self.save, [mode])
        on(everything.click, self.everything, [points, iou, stability, mode], show_progress="full")

    @answers
    def open(self, mode: str, event: gr.EventData, request: gr.Request) -> Said:
        """Encodes a photo that was uploaded."""
        photo = read_photo_bytes(self._state.uploads.take(field(event, "ticket")), self._state.limits)
        with self._state.turns:
            session = PhotoSession(self._state.model, photo)
        self._state.pages.open(page_of(request)).photo = session
        return {"photo": data_url(jpeg(photo, session.shown), "image/jpeg"), **self._marks(session), "mask": None}

    @answers
    def click(self, kind: str, mode: str, event: gr.EventData, request: gr.Request) -> Said:
        """Answers a click, or takes a corner of a box."""
        session, place = self._session(request), (share(event, "x"), share(event, "y"))
        if kind == BOX:
            session.corner(*place)
        else:
            session.click(*place, int(kind == ON))
        return self._answer(session, mode)

    @answers
    def undo(self, mode: str, request: gr.Request) -> Said:
        """Takes a step back."""
        session = self._session(request)
        session.undo()
        return self._answer(session, mode)

    @answers
    def clear(self, mode: str, request: gr.Request) -> Said:
        """Takes all clicks back."""
        session = self._session(request)
        session.clear()
        return self._answer(session, mode)

    @answers
    def show(self, mode: str, request: gr.Request) -> Said:
        """Shows the other mask of the same clicks."""
        return self._answer(self._session(request), mode)

    @answers
    def save(self, mode: str, request: gr.Request) -> Said:
        """Hands out the mask, of the photo's size; of everything, which mask is where."""
        session = self._session(request)
        if session.numbers is not None:
            height, width = session.size
            numbers = cv2.resize(session.numbers, (width, height), interpolation=cv2.INTER_NEAREST)
            picture, name = encoded(numbers_picture(numbers), "PNG"), "everything.png"
        else:
            with self._state.turns:
                mask = session.mask(refine=mode != COARSE)
            if mask is None:
                raise Refused("There is no mask yet; click on an object first.")
            picture, name = mask_png(mask), "mask.png"
        return {"download": data_url(picture, "image/png"), "name": name}

    @answers
    def everything(self, points: Number, iou: Number, stability: Number, mode: str, request: gr.Request) -> Said:
        """Finds all masks in the photo."""
        session = self._session(request)
        with self._state.turns:
            masks = session.everything(int(points), float(iou), float(stability), refine=mode != COARSE)
        overlay = data_url(overlay_png(masks, range(len(masks))), "image/png") if masks else None
        note = {} if masks else {"note": "No mask passes; ask for a lower IoU or less stability."}
        return {**self._marks(session), "mask": overlay, **note}

    def _session(self, request: gr.Request) -> PhotoSession:
        session = self._state.pages.get(page_of(request)).photo
        if session is None:
            raise Refused("No photo is open here yet; choose one first.")
        return session

    def _answer(self, session: PhotoSession, mode: str) -> Said:
        """The masks of what was clicked, by their colours."""
        wanted = {COARSE: [False], REFINED: [True], BOTH: [False, True]}[mode]
        with self._state.turns:
            found = {refine: session.mask(refine=refine) for refine in wanted}
        masks = {refine: at_size(mask, session.shown) for refine, mask in found.items() if mask is not None}
        colours = [REFINED_COLOUR if refine else COARSE_COLOUR for refine in masks]
        overlay = data_url(overlay_png(list(masks.values()), colours), "image/png") if masks else None
        return {**self._marks(session), "mask": overlay}

    def _marks(self, session: PhotoSession) -> Said:
        prompts, (height, width) = session.prompts, session.size
        sides = np.array([width, height, width, height])
        return {
            "marks": {
                "clicks": [(x / width, y / height, label) for x, y, label in prompts.clicks],
                "box": (np.array(prompts.box) / sides).tolist() if prompts.box else None,
                "corner": (np.array(prompts.corner) / sides[:2]).tolist() if prompts.corner else None,
                "ratio": width / height,
            }
        }


class ClipTab:
    """A video in, clicks on an object in any frame, the object tracked, the video out."""

    def __init__(self, state: PageState):
        self._state = state
        refines = state.model.refiner is not None
        with gr.Row():
            with gr.Column(scale=3):
                shown = canvas(state.limits, "video/*", "Choose a video, or drop one here")
            with gr.Column(scale=1, min_width=260):
                kind = gr.Radio([ON, OFF], value=ON, label="The next click is", elem_id="clip-kind")
                refine = gr.Checkbox(
                    refines, label="Refine the masks of the next video", visible=refines, elem_id="clip-refine"
                )
                with gr.Row():
                    undo = gr.Button("Undo", size="md", min_width=90, elem_id="clip-undo")
                    clear = gr.Button("Start anew", size="md", min_width=90, elem_id="clip-clear")
                track = gr.Button("Track through the video", variant="primary", size="md", elem_id="clip-track")
        on = functools.partial(_listen, outputs=shown)
        on(shown.upload, self.open, [refine], show_progress="full")
        on(shown.frame, self.frame, [], trigger_mode="always_last")
        on(shown.click, self.click, [kind])
        on(undo.click, self.undo, [])
        on(clear.click, self.clear, [])
        on(track.click, self.track, [], show_progress="full", concurrency_id="tracking")

    @answers
    def open(self, refine: bool, event: gr.EventData, request: gr.Request) -> Said:
        """Opens a video that was uploaded."""
        data = self._state.uploads.take(field(event, "ticket"))
        session = ClipSession(self._state.model, data, self._state.limits, refine=refine)
        opened = self._state.pages.open(page_of(request))
        opened.release()
        opened.clip = session
        return {"video": None, "frames": len(session), **self._shown(session, 0)}

    @answers
    def frame(self, event: gr.EventData, request: gr.Request) -> Said:
        """Shows another frame."""
        return self._shown(self._session(request), self._index(event))

    @answers
    def click(self, kind: str, event: gr.EventData, request: gr.Request) -> Said:
        """Answers a click in a frame."""
        session, index = self._session(request), self._index(event)
        with self._state.turns:
            session.click(index, share(event, "x"), share(event, "y"), int(kind == ON))
        return self._mask(session, index)

    @answers
    def undo(self, request: gr.Request) -> Said:
        """Takes the last click back, and shows its frame."""
        session = self._session(request)
        with self._state.turns:
            index = session.undo()
        return {} if index is None else self._shown(session, index)

    @answers
    def clear(self, request: gr.Request) -> Said:
        """Takes all clicks back."""
        session = self._session(request)
        session.clear()
        return {"video": None, **self._shown(session, 0)}

    @answers
    def track(self, request: gr.Request, progress: gr.Progress = gr.Progress()) -> Said:  # noqa: B008 - Gradio's way
        """Tracks the object through the video, and plays it."""
        session = self._session(request)
        for done in session.propagate(self._state.turns):
            progress((done, len(session)), desc="Tracking", unit="frames")
        return {"video": data_url(session.result(), "video/mp4"), **self._shown(session, min(session.clicks))}

    def _session(self, request: gr.Request) -> ClipSession:
        session = self._state.pages.get(page_of(request)).clip
        if session is None:
            raise Refused("No video is open here yet; choose one first.")
        return session

    def _index(self, event: gr.EventData) -> int:
        index = field(event, "index")
        if not isinstance(index, int):
            raise Refused("That says no frame.")
        return index

    def _shown(self, session: ClipSession, index: int) -> Said:
        photo = data_url(jpeg(session.frame(index), session.shown), "image/jpeg")
        return {"photo": photo, "frame": index, **self._mask(session, index)}

    def _mask(self, session: ClipSession, index: int) -> Said:
        mask, (height, width) = session.mask(index), session.size
        clicks = [(x / width, y / height, label) for x, y, label in session.clicks.get(index, ())]
        return {
            "marks": {"clicks": clicks, "box": None, "corner": None, "ratio": width / height},
            "mask": None if mask is None else data_url(overlay_png([mask], [0]), "image/png"),
        }


def build_page(state: PageState) -> gr.Blocks:
    """The page, with nothing open in it."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        with gr.Tabs():
            with gr.Tab("Photo"):
                PhotoTab(state)
            with gr.Tab("Video"):
                ClipTab(state)

        def leave(request: gr.Request) -> None:
            state.pages.close(page_of(request))

        page.unload(leave)
    page.queue(max_size=WAITING_REQUESTS, default_concurrency_limit=1, api_open=False)
    return page


def _listen(event: Any, handler: Callable[..., Said], inputs: list[Any], *, outputs: Any, **options: Any) -> None:
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
