"""The tab for videos."""

import functools

import gradio as gr

from .clip import ClipSession
from .controls import OFF, ON, Said, answers, canvas, field, listen, page_of, share
from .limits import Refused
from .pictures import data_url, jpeg, overlay_png
from .state import PageState

__all__ = ["ClipTab"]


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
        on = functools.partial(listen, outputs=shown)
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
            self._session(request)  # which is in use, for as long as it takes
            progress((done, len(session)), desc="Tracking", unit="frames")
        progress(1.0, desc="Making the video")
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
