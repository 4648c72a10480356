"""What a video predictor does with exemplars: makes them, tracks from them, finds their objects in photos."""

import os
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike

from ..image.preprocess import Photo
from ..image.prompts import to_numpy
from ..sam2 import SAM2
from .exemplars import Exemplar, Exemplars, load_exemplars, save_exemplars
from .frames import FrameList
from .state import InferenceState

__all__ = ["FoundInPhoto", "TakesExemplars"]


class FoundInPhoto(NamedTuple):
    """What `find_in_photo` found.

    Attributes:
      obj_ids: the objects, in the order of the exemplars.
      masks: logits, (objects, height, width); all of them far below zero where the object is not in the photo.
      object_score_logits: positive where it is.
      predicted_iou: the predicted IoU of each mask, in [0, 1].
    """

    obj_ids: list[Any]
    masks: Float[np.ndarray, "objects h w"]
    object_score_logits: Float[np.ndarray, " objects"]
    predicted_iou: Float[np.ndarray, " objects"]


class TakesExemplars:
    """The part of a video predictor that is about exemplars.

    An exemplar is to tracking what a frame with a mask is that stands beside the clip: before its first frame when
    tracking forwards, behind its last when going backwards. All exemplars of an object stand on that one frame, so
    their order says nothing. Their memories have the temporal encoding of frames with prompts; the pointers' age is the
    distance from there, frame + 1 forwards, and the clip counts as one frame longer. So one exemplar gives what the
    clip gives with the exemplar's picture for its first frame, and the mask on it.
    """

    model: SAM2
    memory_dtype: np.dtype

    def make_exemplar(self, image: Photo, mask: ArrayLike) -> Exemplar:
        """An exemplar of an object, for any number of clips and photos.

        Args:
          image: a photo, as for `SAM2ImagePredictor.set_image`, or a frame.
          mask: (h, w), of the image's size; non-zero on the object.

        Raises:
          ValueError: if the mask is of another size or shows nothing.
        """
        frames, array = FrameList([image], self.model.config.image_size), to_numpy(mask)
        if array.shape != (frames.height, frames.width):
            raise ValueError(f"mask must be of the image's size, {(frames.height, frames.width)}, got {array.shape}")
        if not array.any():
            raise ValueError("mask must show the object, got one that is 0 everywhere")
        return self._exemplar_of(frames[0], array)

    def add_exemplar(
        self, inference_state: InferenceState, image: Photo, mask: ArrayLike, obj_id: Hashable
    ) -> Exemplar:
        """Shows the predictor what an object looks like, in a picture that is no frame of the clip.

        The object is then tracked from the first frame on, or from the last one backwards, without a prompt in the
        clip; prompts in it count besides. A prompt on a frame that was not tracked yet is read without looking at
        exemplars, as it is without looking at other frames' prompts.

        Args:
          inference_state: from `init_state`.
          image: a photo of any size, or a frame of another video.
          mask: (h, w), of the image's size; non-zero on the object.
          obj_id: the object's id; a new one makes a new object. An object may have any number of exemplars.

        Returns:
          The exemplar, for `add_exemplars` and `save_exemplars`.

        Raises:
          ValueError: if the mask is of another size or shows nothing.
        """
        exemplar = self.make_exemplar(image, mask)
        self.add_exemplars(inference_state, {obj_id: [exemplar]})
        return exemplar

    def add_exemplars(
        self,
        inference_state: InferenceState,
        exemplars: Exemplars,
    ) -> None:
        """As `add_exemplar`, of exemplars that were made before, by the object's id.

        Raises:
          ValueError: if they are of a model with other sizes.
        """
        config = self.model.config
        expected = (config.embedding_size, config.embedding_size, config.memory_dim), (config.hidden_dim,)
        for obj_id, several in exemplars.items():
            for exemplar in several:
                shapes = exemplar.memory.shape, exemplar.pointer.shape
                if shapes != expected:
                    raise ValueError(
                        f"exemplars must have memory and pointer of shapes {expected}, this model's; those of object "
                        f"{obj_id!r} have {shapes}"
                    )
        for obj_id, several in exemplars.items():
            if several:
                inference_state.history_of(obj_id).exemplars += several
                inference_state.going_on = None

    def find_in_photo(self, photo: Photo, exemplars: Exemplars) -> FoundInPhoto:
        """Segments the objects of exemplars in a photo: a clip of one frame, with nothing but them to remember.

        Args:
          photo: as for `SAM2ImagePredictor.set_image`.
          exemplars: by the object's id, from `make_exemplar` or `load_exemplars`; at least one.

        Raises:
          ValueError: if there are none, or of a model with other sizes.
        """
        if not any(exemplars.values()):
            raise ValueError("exemplars must hold at least one exemplar, got none")
        predictor: Any = self  # whose other parts are needed
        state = predictor.init_state([photo])
        self.add_exemplars(state, exemplars)
        ((_, ids, masks, scores),) = predictor.propagate_in_video(state, return_scores=True)
        return FoundInPhoto(ids, masks[:, 0], *scores)

    def save_exemplars(
        self,
        exemplars: Exemplars | InferenceState,
        path: str | os.PathLike[str],
    ) -> None:
        """Writes exemplars to a file that appears whole or not at all, an .npz without pickles.

        Args:
          exemplars: by the object's id, or a state, whose exemplars are then taken.
          path: of the file, such as "shape.npz".

        Raises:
          FileExistsError: if there is one.
          ValueError: if there are no exemplars, or an id is neither text nor a whole number.
        """
        found = exemplars if isinstance(exemplars, Mapping) else exemplars.exemplars
        if not any(found.values()):
            raise ValueError("exemplars must hold at least one exemplar, got none")
        save_exemplars(path, found, self.model, self.memory_dtype)

    def load_exemplars(self, path: str | os.PathLike[str]) -> dict[Any, list[Exemplar]]:
        """The exemplars in a file that `save_exemplars` wrote, by the object's id, with the same bits.

        Raises:
          ArchiveError: if it is no such file or a damaged one, naming it.
          FileNotFoundError: if there is none.
          ValueError: if they were made with another model, naming what differs.
        """
        return load_exemplars(path, self.model, self.memory_dtype)

    def _exemplar_of(self, frame: UInt8[np.ndarray, "s s 3"], mask: np.ndarray) -> Exemplar:
        """What the predictor remembers of a frame on which a mask is given."""
        raise NotImplementedError
