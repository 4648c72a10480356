"""What all requests to the page share."""

import dataclasses

from ..sam2 import SAM2
from .clip import ClipSession
from .limits import Limits
from .photo import PhotoSession
from .sessions import Sessions, Turns, Uploads

__all__ = ["Opened", "PageState"]


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
