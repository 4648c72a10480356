"""The tab for photos."""

import functools

import cv2
import gradio as gr
import numpy as np

from ..data.masks import numbers_picture
from .controls import OFF, ON, Said, answers, canvas, field, listen, page_of, share
from .limits import Refused, read_photo_bytes
from .photo import PhotoSession
from .pictures import at_size, data_url, encoded, jpeg, mask_png, overlay_png
from .state import PageState

__all__ = ["PhotoTab"]

BOX = "a box, by two corners"
COARSE, REFINED, BOTH = "coarse (blue)", "refined (red)", "both"
COARSE_COLOUR, REFINED_COLOUR = 1, 0  # in the palette
# Where everything is looked for at first, and what passes; these suit the model in the package.
POINTS_PER_SIDE, LEAST_IOU, LEAST_STABILITY = 16, 0.2, 0.7

Number = int | float  # of a slider


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
        on = functools.partial(listen, outputs=shown)
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
