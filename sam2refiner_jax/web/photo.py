"""One photo on the page: encoded once, then asked with clicks and a box, or for everything in it."""

import dataclasses
from collections import deque

import numpy as np
from jaxtyping import Bool, UInt8

from ..data.masks import VOID
from ..image.mask_generator import SAM2AutomaticMaskGenerator
from ..image.predictor import SAM2ImagePredictor
from ..sam2 import SAM2
from .limits import Refused
from .pictures import shown_size

__all__ = ["MOST_CLICKS", "PhotoPrompts", "PhotoSession", "warm_up"]

# More would need another program compiled.
MOST_CLICKS = 8
# How many steps can be taken back.
MOST_STEPS = 64


@dataclasses.dataclass(frozen=True)
class PhotoPrompts:
    """What was clicked in a photo, in its pixels.

    Attributes:
      clicks: x, y, label; 1 on the object, 0 off it.
      box: x0, y0, x1, y1.
      corner: x, y of the first corner of the next box.
    """

    clicks: tuple[tuple[float, float, int], ...] = ()
    box: tuple[float, float, float, float] | None = None
    corner: tuple[float, float] | None = None

    def __bool__(self) -> bool:
        return bool(self.clicks or self.box)

    def with_click(self, x: float, y: float, label: int) -> "PhotoPrompts":
        """These and a click.

        Raises:
          Refused: if there are as many as one program takes.
        """
        if len(self.clicks) == MOST_CLICKS:
            raise Refused(f"{MOST_CLICKS} clicks are the most; take one back, or start anew.")
        return dataclasses.replace(self, clicks=(*self.clicks, (x, y, label)), corner=None)

    def with_corner(self, x: float, y: float) -> "PhotoPrompts":
        """These and one corner of a box; the second one makes the box, in place of one that was there.

        Raises:
          Refused: if the box would have no area.
        """
        if self.corner is None:
            return dataclasses.replace(self, corner=(x, y))
        x0, x1 = sorted((self.corner[0], x))
        y0, y1 = sorted((self.corner[1], y))
        if x1 - x0 < 1 or y1 - y0 < 1:
            raise Refused("The two corners of a box must lie apart, both sideways and up or down.")
        return dataclasses.replace(self, box=(x0, y0, x1, y1), corner=None)


class PhotoSession:
    """A photo's features, and what was clicked in it. The photo itself is not held.

    Args:
      model: shared by all photos.
      photo: encoded here, and never again.

    Attributes:
      size: height and width of the photo.
      shown: height and width at which it is shown.
      prompts: what was clicked.
      numbers: at the size shown, which mask of everything is where, 0 for none; None unless that was asked for last.
    """

    def __init__(self, model: SAM2, photo: UInt8[np.ndarray, "h w 3"]):
        self._predictor = SAM2ImagePredictor(model)
        self._predictor.set_image(photo)
        self._steps: deque[PhotoPrompts] = deque(maxlen=MOST_STEPS)
        self.size = photo.shape[0], photo.shape[1]
        self.shown = shown_size(*self.size)
        self.prompts = PhotoPrompts()
        self.numbers: np.ndarray | None = None

    def click(self, x: float, y: float, label: int) -> None:
        """Adds a click at a share of the photo's width and height."""
        self._change(self.prompts.with_click(*self._pixels(x, y), label))

    def corner(self, x: float, y: float) -> None:
        """Adds a box's corner at a share of the photo's width and height."""
        self._change(self.prompts.with_corner(*self._pixels(x, y)))

    def undo(self) -> None:
        """Takes the last step back, if there is one; after everything, back to what was clicked before."""
        if self.numbers is not None:
            self.numbers = None
        elif self._steps:
            self.prompts = self._steps.pop()

    def clear(self) -> None:
        """Takes all clicks back, as a step."""
        if self.prompts != PhotoPrompts() or self.numbers is not None:
            self._change(PhotoPrompts())

    def mask(self, *, refine: bool) -> Bool[np.ndarray, "h w"] | None:
        """The mask of what was clicked, of the photo's size, as `sam2refiner segment` makes it; None without any."""
        if not self.prompts:
            return None
        clicks = np.array(self.prompts.clicks, np.float32).reshape(-1, 3)
        masks, _, _ = self._predictor.predict(
            point_coords=clicks[:, :2] if len(clicks) else None,
            point_labels=clicks[:, 2].astype(np.int32) if len(clicks) else None,
            box=np.array(self.prompts.box, np.float32) if self.prompts.box else None,
            multimask_output=False,
            refine=refine,
        )
        return masks[0] > 0

    def everything(
        self, points_per_side: int, pred_iou_thresh: float, stability_score_thresh: float, *, refine: bool
    ) -> list[Bool[np.ndarray, "h w"]]:
        """The masks of all that is in the photo, at the size shown, the largest first.

        Arguments are those of `SAM2AutomaticMaskGenerator`.
        """
        generator = SAM2AutomaticMaskGenerator(
            self._predictor.model,
            points_per_side,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            refine=refine,
        )
        found = generator.generate_from(self._predictor.features, self.shown)
        masks = [each["segmentation"] for each in sorted(found, key=lambda each: -each["area"])]
        self.numbers = np.zeros(self.shown, np.uint8 if len(masks) <= VOID else np.uint16)
        for number, mask in enumerate(masks, start=1):
            self.numbers[mask] = number
        return masks

    def _change(self, prompts: PhotoPrompts) -> None:
        self._steps.append(self.prompts)
        self.prompts, self.numbers = prompts, None

    def _pixels(self, x: float, y: float) -> tuple[float, float]:
        height, width = self.size
        return x * width, y * height


def warm_up(model: SAM2) -> None:
    """Compiles what answers clicks."""
    session = PhotoSession(model, np.zeros((64, 64, 3), np.uint8))
    session.click(0.5, 0.5, 1)
    for refine in (False, True)[: 2 if model.refiner is not None else 1]:
        session.mask(refine=refine)
