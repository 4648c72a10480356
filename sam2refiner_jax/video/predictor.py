"""SAM2VideoPredictor: objects through videos, with the interface of the official package 1.1.0."""

import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8
from numpy.typing import ArrayLike

from ..features import ImageFeatures
from ..flat_model import flat_model
from ..image.conversation import Asked, Conversation
from ..image.postprocess import fill_holes, resize_masks
from ..image.preprocess import Photo
from ..image.prompts import ObjectPrompts, bucket, pack_prompts, read_prompts, to_numpy
from ..nn.prompt_encoder import LOGIT_LIMIT, NOT_A_POINT, Prompts
from ..nn.resize import antialiased_matrix
from ..pretrained import FromPretrained
from ..sam2 import SAM2
from .array_file import ArrayFile
from .clip_batch import ClipBatch, ambient_mesh
from .exemplars import Exemplar
from .frames import FrameStream, open_frames
from .memory_bank import MemoryBank, ObjectFrames
from .policies import MemoryPolicy, memory_policy
from .propagation import Propagation, first_prompts
from .saved_state import SavesStates
from .slots import UNKNOWN_LENGTH
from .snapshots import Snapshot, take_snapshots
from .state import FrameScores, GoingOn, InferenceState, ObjectHistory, ObjectOnFrame, assemble_bank
from .streams import LiveStreams
from .takes_exemplars import TakesExemplars
from .together import batch_size, propagate_states
from .tracking import (
    NO_OBJECT_SCORE,
    Segmentation,
    encode_frames,
    encode_memory,
    input_size_masks,
    remember_correction,
    segment_mask_prompt,
    segment_prompted,
    segment_tracked,
    track_frame,
)

__all__ = ["SAM2VideoPredictor"]

# Where objects may not overlap, the logits of the weaker ones are at most this.
SUPPRESSED_LOGIT = -10.0
# Refined logits beyond it, which half precision could not hold, are certain anyway.
HALF_PRECISION_LIMIT = 6e4

Masks = Float[np.ndarray, "objects 1 h w"]
Video = str | os.PathLike[str] | bytes | Sequence[Photo] | np.ndarray | Iterable[Photo]

_encode_frames = jax.jit(encode_frames)
_segment_prompted = jax.jit(segment_prompted)
_segment_mask_prompt = jax.jit(segment_mask_prompt)
_segment_tracked = jax.jit(segment_tracked)
_remember_correction = jax.jit(remember_correction)


@jax.jit
def _encode_prompted(model: SAM2, features: ImageFeatures, found: Segmentation) -> Float[Array, "objects h h cm"]:
    scores = jnp.asarray(found.object_score_logits)
    image = jnp.zeros(len(scores), jnp.int32)
    return encode_memory(model, features, image, input_size_masks(model, found), scores, prompted=True)


class SAM2VideoPredictor(TakesExemplars, SavesStates, FromPretrained):
    """Tracks any number of objects through a video, from clicks, boxes or masks on any of its frames.

    A frame is encoded once, and all objects are tracked in it by one compiled step of static shape: frame numbers,
    clip lengths, up to 8 clicks, and objects up to the next power of two compile nothing new. Only the memories that
    the next frames can attend to are on the device; results are in host memory, and those that tracking does not look
    back on in a temporary file.

    Semantics are those of the official package 1.1.0 as `build_sam2_video_predictor` makes it, some of which surprise:

    - `propagate_in_video` starts at the earliest frame with prompts and tracks anew whatever frame has none. So it also
      overwrites the result of clicks that correct a frame tracked before, unless `add_all_frames_to_correct_as_cond`.
    - `max_frame_num_to_track` does not count the first frame.
    - Memory features are rounded to bfloat16 between frames.

    Args:
      model: from `load_model` or `build_model`.
      fill_hole_area: fill holes in masks of at most this area, in pixels of the low-resolution mask. The official
        builder sets 8 here, but without its CUDA extension the package skips it; the default, 0, equals that.
      non_overlap_masks: give each pixel of the returned masks to one object at most.
      clear_non_cond_mem_around_input: forget what was tracked near a frame when it gets a prompt.
      add_all_frames_to_correct_as_cond: treat corrected frames like those that were prompted at first.
      memory_dtype: in which memory features are kept between frames; bfloat16, as officially, or float32.
      refine: let the model's refiner make the masks, of which memories are made too; by default if it has one. With
        False, all is as if it had none.
      memory: which frames are remembered, which are attended to, and which of the decoder's masks is the object's: the
        name of a registered policy, or one (`video/policies`). "official" is SAM 2's; there are "quality", "motion" and
        "tree".
      untrained: track though the checkpoint says that the memory's weights are random.

    Raises:
      ValueError: if the model has no memory or an untrained one, or no refiner that `refine` asks for, or there is no
        such policy.
    """

    def __init__(
        self,
        model: SAM2,
        fill_hole_area: int = 0,
        non_overlap_masks: bool = False,
        clear_non_cond_mem_around_input: bool = False,
        add_all_frames_to_correct_as_cond: bool = False,
        *,
        memory_dtype: DTypeLike = jnp.bfloat16,
        refine: bool | None = None,
        memory: str | MemoryPolicy = "official",
        untrained: bool = False,
    ):
        if not model.config.memory:
            raise ValueError(
                "model must have a memory, which videos need; this one is for photos alone, from a checkpoint without "
                "the memory's weights (Sam2Model of transformers, where Sam2VideoModel has them)"
            )
        random = model.untrained_memory
        if random and not untrained:
            raise ValueError(
                f"model must have a trained memory, but its {' and '.join(random)} are random: what it tracks means "
                "nothing. Train them on clips, or give untrained=True"
            )
        if refine and model.refiner is None:
            raise ValueError("refine must be False for a model without a refiner; load one: load_model(..., refiner=)")
        self.model = model.with_refiner(None) if refine is False else model
        self.fill_hole_area = fill_hole_area
        self.non_overlap_masks = non_overlap_masks
        self.clear_non_cond_mem_around_input = clear_non_cond_mem_around_input
        self.add_all_frames_to_correct_as_cond = add_all_frames_to_correct_as_cond
        self.memory_dtype = jnp.dtype(memory_dtype)
        self.memory = memory_policy(memory)

    @property
    def device(self) -> jax.Device:
        """Where the model's weights are."""
        return next(iter(self.model.no_mem_embed[...].devices()))

    def init_state(
        self,
        video_path: Video,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = False,
        *,
        history: int | None = None,
    ) -> InferenceState:
        """Opens a video.

        Args:
          video_path: a folder of JPEGs (or PNGs, WebPs, TIFFs) named by frame number, a video file or its bytes, a list
            (or array) of RGB frames, or an iterator of RGB frames, which is read as tracking goes on, one frame ahead.
            Files are read as they are shown: turned upright by a video's display matrix or a picture's EXIF, which the
            official package ignores. Coordinates are those of the upright frame.
          offload_video_to_cpu: has no effect: frames are always in host memory, and decoded ahead.
          offload_state_to_cpu: has no effect: results are never on the device, but for what memory attention needs of
            them.
          async_loading_frames: has no effect: frames are always decoded in threads.
          history: how many tracked frames of each object to remember, at least 16. Prompts can correct the frames
            that are remembered, and propagation can start from them. By default all frames of a stored clip, and 16
            of an iterator, of which as many frames stay available for prompts; so its memory does not grow. Of a stored
            clip the 15 frames to either side of each prompt are remembered besides, so that going backwards from a
            prompt after going forwards gives what it gives with all frames remembered. Frames beyond those 16 and 15
            are remembered in a temporary file without a name, in the folder that the environment variable TMPDIR names.

        Raises:
          ValueError: if the video holds no frames, frames of different sizes, or cannot be read.
        """
        least, history = self.model.config.max_obj_ptrs_in_encoder, self._checked_history(history)
        frames = open_frames(video_path, self.model.config.image_size, kept=history or least)
        if isinstance(frames, FrameStream):  # which nobody can go back in
            return InferenceState(frames, None, history or least, recent=least)
        return InferenceState(frames, len(frames), history, reach=least - 1, recent=least)

    def init_states(self, video_paths: Iterable[Video], *, history: int | None = None) -> list[InferenceState]:
        """Opens several videos, for `propagate_together`.

        Args:
          video_paths: each as `init_state` takes it.
          history: see `init_state`.

        Raises:
          ValueError: if `history` is too small; naming the first video that cannot be opened.
        """
        self._checked_history(history)
        states = []
        for i, video_path in enumerate(video_paths):
            try:
                states.append(self.init_state(video_path, history=history))
            except (ValueError, OSError) as error:
                which = f" ({video_path})" if isinstance(video_path, (str, os.PathLike)) else ""
                raise ValueError(f"video_paths[{i}]{which} cannot be opened: {error}") from error
        return states

    def add_new_points_or_box(
        self,
        inference_state: InferenceState,
        frame_idx: int,
        obj_id: Hashable,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: ArrayLike | None = None,
    ) -> tuple[int, list[Any], Masks]:
        """Adds clicks on an object, or a box around it, or both, to a frame.

        On a frame that was tracked before, they correct the mask found there; elsewhere they start the object. They
        correct a mask that `add_new_mask` gave on the frame too: the decoder reads it as its dense prompt, and what it
        finds takes the mask's place.

        Args:
          inference_state: from `init_state`.
          frame_idx: the frame.
          obj_id: the object's id, of the caller's choice; a new one makes a new object, at any time.
          points: (n, 2) x and y in pixels of the video.
          labels: (n,) 1 for a click on the object, 0 for one off it, 2 and 3 for a box's corners, -1 for padding.
          clear_old_points: forget earlier clicks on this object in this frame instead of adding to them.
          normalize_coords: False if coordinates are already in [0, 1] of the video's width and height.
          box: (4,) x0, y0, x1, y1, or (2, 2) its corners; only with `clear_old_points`.

        Returns:
          The frame's index, all object ids, and mask logits of all objects on the frame, (objects, 1, height, width).

        Raises:
          ValueError: on a frame that is not there, or prompts that cannot be meant.
        """
        state = inference_state
        state.check_frame(frame_idx)
        history = state.objects.get(obj_id, ObjectHistory(num_frames=state.num_frames))
        record = history.on(frame_idx)
        old = None if clear_old_points else record.points
        coords, kinds = self._read_points(state, points, labels, box, clear_old_points, normalize_coords)
        if old is not None:
            coords, kinds = np.concatenate([old[0], coords]), np.concatenate([old[1], kinds])

        is_prompt = record.reverse is None or self.add_all_frames_to_correct_as_cond
        previous = (record.new_prompted if is_prompt else record.new_tracked) or record.result
        prompts = self._pack(coords, kinds, previous)
        features = self._features(state, frame_idx)
        asked, conversation = [Asked(0, coords, kinds)], record.conversation or Conversation()
        before = conversation.before(asked, lambda: self._first_carry(previous))
        if record.reverse is None:
            found = _segment_prompted(flat_model(self.model), features, np.zeros(1, np.int32), prompts, before.carry)
        else:
            if not history.is_known:
                raise RuntimeError(
                    f"object {obj_id!r} has no prompts left from which frame {frame_idx} could be corrected; "
                    "call propagate_in_video after adding prompts to another frame, or reset_state"
                )
            bank = self._bank([history], frame_idx, record.reverse)
            where = self._object_frames(state, 1, frame_idx, record.reverse)
            found = _segment_tracked(flat_model(self.model), features, bank, where, prompts, carry=before.carry)
        history.keep(frame_idx, record, self._to_host(found, 1)[0], is_prompt)
        record.points, record.mask = (coords, kinds), None
        conversation.go_on(before, asked, found.carry)
        record.conversation = conversation
        state.objects.setdefault(obj_id, history)
        state.going_on = None
        return frame_idx, state.obj_ids, self._masks_on(state, frame_idx, is_prompt)

    def add_new_points(self, *args: Any, **kwargs: Any) -> tuple[int, list[Any], Masks]:
        """The former name of `add_new_points_or_box`."""
        return self.add_new_points_or_box(*args, **kwargs)

    def add_new_mask(
        self, inference_state: InferenceState, frame_idx: int, obj_id: Hashable, mask: ArrayLike
    ) -> tuple[int, list[Any], Masks]:
        """Gives an object's mask in a frame, in place of clicks. It is taken as it is, at the resolution of the model.

        Args:
          inference_state: from `init_state`.
          frame_idx: the frame.
          obj_id: the object's id; a new one makes a new object.
          mask: (h, w), of any size; non-zero on the object.

        Returns:
          The frame's index, all object ids, and mask logits of all objects on the frame, (objects, 1, height, width).

        Raises:
          ValueError: on a frame that is not there, or a mask that is none.
        """
        state = inference_state
        state.check_frame(frame_idx)
        resized = _resize_mask(mask, self.model.config.image_size)
        history = state.objects.get(obj_id, ObjectHistory(num_frames=state.num_frames))
        record = history.on(frame_idx)
        is_prompt = record.reverse is None or self.add_all_frames_to_correct_as_cond
        features = self._features(state, frame_idx)
        found = _segment_mask_prompt(flat_model(self.model), features, np.zeros(1, np.int32), resized[None])
        history.keep(frame_idx, record, self._to_host(found, 1)[0], is_prompt)
        record.points, record.mask, record.conversation = None, resized, None
        state.objects.setdefault(obj_id, history)
        state.going_on = None
        return frame_idx, state.obj_ids, self._masks_on(state, frame_idx, is_prompt)

    @overload
    def propagate_in_video(
        self,
        inference_state: InferenceState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        return_scores: Literal[False] = False,
    ) -> Iterator[tuple[int, list[Any], Masks]]: ...

    @overload
    def propagate_in_video(
        self,
        inference_state: InferenceState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        return_scores: Literal[True],
    ) -> Iterator[tuple[int, list[Any], Masks, FrameScores]]: ...

    def propagate_in_video(
        self,
        inference_state: InferenceState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        return_scores: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Tracks all objects from frame to frame.

        What was tracked stays when a later frame fails, or when the caller stops. Objects and prompts that are added
        meanwhile count from the next call on.

        Args:
          inference_state: from `init_state`.
          start_frame_idx: the first frame; by default the earliest one with prompts or, where frames come from an
            iterator and some were tracked already, the next one.
          max_frame_num_to_track: how many frames to track after the first one; by default all.
          reverse: go backwards; not from an iterator.
          return_scores: also yield how sure the model is of each object, as `inference_state.scores_on(frame)` says it.

        Yields:
          A frame's index, all object ids, and mask logits, (objects, 1, height, width); with `return_scores` also
          `FrameScores`: `object_score_logits` and `predicted_iou`, (objects,) each.

        Raises:
          OSError: if older results cannot be written to a temporary file, naming its folder; none is lost, and
            propagation can go on where it stopped.
          RuntimeError: if an object has no prompts, or the iterator of frames fails.
          ValueError: on a start that is not there, or a frame that cannot be read, naming it.
        """
        state = inference_state
        way = Propagation.begin(self, state, start_frame_idx, max_frame_num_to_track, reverse)
        rows = bucket(len(way.objects))
        bank: MemoryBank
        origins = jax.device_put(self._origins(way.objects, rows, reverse))
        for frame_idx, image in way.frames:
            if way.is_stale:
                bank = jax.device_put(way.bank(frame_idx))
            active = way.active(frame_idx, rows)
            if active.any():
                features = self._features(state, frame_idx, image)
                where = self._object_frames(state, rows, frame_idx, reverse)
                state.going_on = None  # whose buffers are used again
                bank, tracked = track_frame(flat_model(self.model), bank, features, where, active, origins)
                state.store_old()  # while the device computes
                snapshots = take_snapshots(bank, len(way.objects))
                way.record(frame_idx, active, tracked.segmentation, tracked.memory, snapshots)
            shown = way.leave(frame_idx)
            state.going_on = None if way.is_stale else GoingOn(bank, frame_idx, reverse, way.obj_ids)
            yield shown if return_scores else shown[:3]

    @overload
    def propagate_together(
        self,
        inference_states: Iterable[InferenceState],
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        batch: int | None = None,
        return_scores: Literal[False] = False,
    ) -> Iterator[tuple[InferenceState, int, list[Any], Masks]]: ...

    @overload
    def propagate_together(
        self,
        inference_states: Iterable[InferenceState],
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        batch: int | None = None,
        return_scores: Literal[True],
    ) -> Iterator[tuple[InferenceState, int, list[Any], Masks, FrameScores]]: ...

    def propagate_together(
        self,
        inference_states: Iterable[InferenceState],
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        batch: int | None = None,
        return_scores: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Tracks the objects of many clips, whatever their lengths and sizes, several clips at a time as one batch.

        Every clip gives what `propagate_in_video` gives of it alone. Frames of different clips come in any order, those
        of one in theirs. A clip that ends leaves its place to the next, and nothing is compiled anew for it. Under
        `jax.set_mesh` the batch is divided among the mesh's devices.

        Args:
          inference_states: of a list, the longest clips begin. An iterator is asked for the next clip when there is
            place for it, so that clips can be opened one after the other.
          start_frame_idx: as for one clip; by default the earliest with prompts of each.
          max_frame_num_to_track: as for one clip.
          reverse: as for one clip.
          batch: how many clips at a time, at most; by default 4 on every device.
          return_scores: also yield how sure the model is of each object.

        Yields:
          A clip's state, and what `propagate_in_video` yields of it: a frame's index, all object ids, mask logits and,
          with `return_scores`, `FrameScores`.

        Raises:
          OSError: as for one clip.
          RuntimeError: if an object has no prompts; of a list, before anything is tracked.
          ValueError: if `batch` is no multiple of the number of devices, or a clip is there twice; on a start that is
            not in a clip; and, when all others are done, naming the clips of which a frame could not be read.
        """
        mesh = ambient_mesh()
        clips = ClipBatch(self, mesh, most=batch_size(batch, mesh))

        def begin(state: InferenceState) -> Propagation:
            return Propagation.begin(self, state, start_frame_idx, max_frame_num_to_track, reverse)

        together = propagate_states(inference_states, begin, clips)
        return ((state, *(shown if return_scores else shown[:3])) for state, shown in together)

    def open_streams(self, *, streams: int = 1, objects: int = 1, history: int | None = None) -> LiveStreams:
        """Opens live streams that are named and given their frames as these arrive, and advance as one batch.

        Shapes are powers of two of streams and of objects in all, each compiled when first needed. Whatever joins and
        leaves within what there is room for from the start compiles nothing after the first step. Under `jax.set_mesh`
        the batch is divided among the mesh's devices.

        Args:
          streams: for how many streams there is room from the start.
          objects: for how many objects of all streams.
          history: how many frames of each stream are remembered and stay available for prompts, at least 16; that by
            default.

        Returns:
          The streams, of which there are none yet; see `LiveStreams`.

        Raises:
          ValueError: if a number is too small.
        """
        for name, value in (("streams", streams), ("objects", objects)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        batch = ClipBatch(self, ambient_mesh(), clips=streams, objects=objects)
        return LiveStreams(self, batch, self._checked_history(history) or self.model.config.max_obj_ptrs_in_encoder)

    def propagate_in_video_preflight(self, inference_state: InferenceState) -> None:
        """Makes memories of the prompts since the last propagation; `propagate_in_video` begins with it.

        Raises:
          RuntimeError: if an object has no prompts.
        """
        state = inference_state
        if not state.objects:
            raise RuntimeError("No input points or masks are provided for any object; please add inputs first.")
        # Frame by frame, so that each is encoded once.
        for frame in sorted({frame for history in state.objects.values() for frame in history.new_frames()}):
            for history in state.objects.values():
                record = history.on(frame)
                news = [result for result in (record.new_tracked, record.new_prompted) if result is not None]
                if not news:
                    continue
                for result in news:
                    result.memory = self._memory_of(result, self._features(state, frame))
                if record.new_tracked is not None and history.is_known and not self.memory.follows_frames:
                    record.new_tracked.snapshot = self._snapshot_after(state, history, frame, record.new_tracked)
                history.accept(frame)
                if self.clear_non_cond_mem_around_input:  # a correction's own memory too, as officially
                    history.forget_around(frame, self.model.config.num_maskmem)
        for obj_id, history in state.objects.items():
            if not history.is_known:
                raise RuntimeError(
                    f"No input points or masks are provided for object id {obj_id!r}; please add inputs first."
                )
            for frame in history.prompted:
                history.frames[frame].tracked = None

    def clear_all_prompts_in_frame(
        self, inference_state: InferenceState, frame_idx: int, obj_id: Hashable, need_output: bool = True
    ) -> tuple[int, list[Any], Masks] | None:
        """Forgets an object's prompts in a frame; what they gave stays as if it had been tracked.

        Returns:
          As `add_new_points_or_box`, or None unless `need_output`.

        Raises:
          ValueError: if there is no such object.
        """
        state = inference_state
        if obj_id not in state.objects:
            raise ValueError(f"obj_id must be one of {state.obj_ids}, got {obj_id!r}")
        state.check_frame(frame_idx)
        history, state.going_on = state.objects[obj_id], None
        record = history.on(frame_idx)
        record.points = record.mask = record.new_prompted = record.new_tracked = record.conversation = None
        if record.prompted is not None:
            result, record.prompted, record.reverse = record.prompted, None, None
            history.record(frame_idx, result, state.history, state.reach)
        return (frame_idx, state.obj_ids, self._masks_on(state, frame_idx)) if need_output else None

    def remove_object(
        self, inference_state: InferenceState, obj_id: Hashable, strict: bool = False, need_output: bool = True
    ) -> tuple[list[Any], list[tuple[int, Masks]]]:
        """Forgets an object.

        Args:
          inference_state: from `init_state`.
          obj_id: the object's id.
          strict: raise an error if there is no such object, instead of doing nothing.
          need_output: also return the masks of the other objects on the frames where this one had prompts.

        Returns:
          The ids of the remaining objects, and for each such frame its index and masks.

        Raises:
          RuntimeError: if `strict` and there is no such object.
        """
        state = inference_state
        if obj_id not in state.objects:
            if strict:
                raise RuntimeError(f"Cannot remove object id {obj_id!r}: the object ids are {state.obj_ids}.")
            return state.obj_ids, []
        frames, state.going_on = state.objects.pop(obj_id).prompt_frames(), None
        if not state.objects:
            self.reset_state(state)
            return [], []
        return state.obj_ids, [(frame, self._masks_on(state, frame)) for frame in frames] if need_output else []

    def reset_state(self, inference_state: InferenceState) -> None:
        """Forgets all objects, prompts and results; the video stays open."""
        inference_state.objects.clear()
        inference_state.last_frame = inference_state.going_on = None
        inference_state.file = ArrayFile()

    def _checked_history(self, history: int | None) -> int | None:
        least = self.model.config.max_obj_ptrs_in_encoder
        if history is not None and history < least:
            raise ValueError(f"history must be at least {least}, the frames that tracking looks back on; got {history}")
        return history

    def _read_points(
        self, state: InferenceState, points, labels, box, clear_old_points: bool, normalize_coords: bool
    ) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, " n"]]:
        if (points is not None) != (labels is not None):
            raise ValueError("points and labels must be provided together")
        if points is None and box is None:
            raise ValueError("at least one of points or box must be provided as input")
        if box is not None and not clear_old_points:
            raise ValueError("box must come before any point; use clear_old_points=True with it")
        prompts = read_prompts(
            points,
            labels,
            box,
            None,
            photo_size=(state.video_height, state.video_width),
            image_size=self.model.config.image_size,
            normalize_coords=normalize_coords,
        )
        if len(prompts) != 1:
            raise ValueError(
                f"points and box must be for one object, shapes (n, 2) and (4,), got them for {len(prompts)}"
            )
        return prompts.points[0, :-1], prompts.labels[0, :-1]  # the padding point comes when they are packed

    def _pack(self, coords: np.ndarray, kinds: np.ndarray, previous: ObjectOnFrame | None) -> Prompts:
        mask = None if previous is None else np.clip(previous.mask, -LOGIT_LIMIT, LOGIT_LIMIT)[None]
        points = np.concatenate([coords, np.zeros((1, 2), np.float32)])[None]
        labels = np.append(kinds, np.int32(NOT_A_POINT))[None]
        return pack_prompts([ObjectPrompts(points, labels, mask)], self.model.config.mask_size)

    def _first_carry(self, previous: ObjectOnFrame | None) -> Any:
        """What the refiner begins with: nothing, or the mask that was found before there were clicks."""
        refiner = self.model.refiner
        if refiner is None:
            return ()
        return refiner.initial_carry(1) if previous is None else refiner.carry_of(previous.finest[None])

    def _features(self, state: InferenceState, frame_idx: int, image: np.ndarray | None = None) -> ImageFeatures:
        """The frame's features; those of the last frame are kept, for several prompts on it."""
        if state.features is None or state.features[0] != frame_idx:
            image = state.frames[frame_idx] if image is None else image
            state.features = frame_idx, _encode_frames(flat_model(self.model), image[None])
        return state.features[1]

    def _object_frames(self, state: InferenceState, rows: int, frame_idx: int, reverse: bool) -> ObjectFrames:
        def each(value, dtype):
            return np.full(rows, value, dtype)

        length = UNKNOWN_LENGTH if state.num_frames is None else state.num_frames
        return ObjectFrames(each(0, np.int32), each(frame_idx, np.int32), each(length, np.int32), each(reverse, bool))

    def _bank(self, objects: Sequence[ObjectHistory], frame_idx: int, reverse: bool) -> MemoryBank:
        """The memories of objects on the device, when they are looked for on a frame."""
        config = self.model.config
        return jax.device_put(assemble_bank(objects, frame_idx, reverse, config, self.memory_dtype, self.memory))

    def _snapshot_after(
        self, state: InferenceState, history: ObjectHistory, frame_idx: int, corrected: ObjectOnFrame
    ) -> Snapshot | None:
        """What the memory policy knows after a tracked frame that was corrected."""
        reverse = bool(history.on(frame_idx).reverse)
        bank, where = self._bank([history], frame_idx, reverse), self._object_frames(state, 1, frame_idx, reverse)
        values = corrected.memory, corrected.pointer, corrected.mask, np.float32(corrected.object_score_logit)
        bank = _remember_correction(bank, where, *(np.asarray(value)[None] for value in values))
        return take_snapshots(bank, 1)[0]

    def _origins(self, objects: Sequence[ObjectHistory], rows: int, reverse: bool) -> Prompts | None:
        """What the refiner reads as the prompts of frames that have none."""
        return first_prompts(self.model, [history.first_points(reverse) for history in objects], rows)

    def _memory_of(self, result: ObjectOnFrame, features: ImageFeatures) -> Float[np.ndarray, "h h cm"]:
        """The memory features of a mask that prompts gave."""
        found = Segmentation(
            result.mask[None],
            result.pointer[None],
            np.full(1, result.object_score_logit, np.float32),
            np.full(1, result.predicted_iou, np.float32),
            None if result.refined is None else result.refined[None].astype(np.float32),
        )
        return np.array(_encode_prompted(flat_model(self.model), features, found)[0].astype(self.memory_dtype))

    def _exemplar_of(self, frame: UInt8[np.ndarray, "s s 3"], mask: np.ndarray) -> Exemplar:
        features = _encode_frames(flat_model(self.model), frame[None])
        resized = _resize_mask(mask, self.model.config.image_size)
        found = self._to_host(
            _segment_mask_prompt(flat_model(self.model), features, np.zeros(1, np.int32), resized[None]), 1
        )[0]
        return Exemplar(self._memory_of(found, features), found.pointer, found.object_score_logit)

    def _to_host(
        self, found: Segmentation, count: int, memory: Array | np.ndarray | None = None
    ) -> list[ObjectOnFrame]:
        """The first `count` rows of results, copied so that they keep no buffer of the device alive."""
        found, memory = jax.device_get((found, memory))
        masks = fill_holes(np.asarray(found.masks[:count]), self.fill_hole_area)
        refined = None
        if found.refined is not None:  # areas are in pixels of the low-resolution mask; these are 16 times as many
            refined = fill_holes(np.asarray(found.refined[:count]), 16 * self.fill_hole_area)
            refined = refined.clip(-HALF_PRECISION_LIMIT, HALF_PRECISION_LIMIT).astype(np.float16)
        return [
            ObjectOnFrame(
                np.array(masks[i]),
                np.array(found.pointers[i]),
                float(found.object_score_logits[i]),
                float(found.predicted_iou[i]),
                None if memory is None else np.array(memory[i]),
                None if refined is None else refined[i].copy(),
            )
            for i in range(count)
        ]

    def _masks_on(self, state: InferenceState, frame: int, prompted: bool | None = None) -> Masks:
        return self._to_video_size(state, state.results_on(frame, prompted))

    def _to_video_size(self, state: InferenceState, results: Sequence[ObjectOnFrame | None]) -> Masks:
        size = state.video_height, state.video_width
        masks = np.full((len(results), 1, *size), NO_OBJECT_SCORE, np.float32)
        for mask, result in zip(masks, results, strict=True):
            if result is not None:
                mask[0] = resize_masks(result.finest, size)
        if self.non_overlap_masks and len(masks) > 1:
            is_best = masks.argmax(axis=0)[None] == np.arange(len(masks))[:, None, None, None]
            masks = np.where(is_best, masks, np.minimum(masks, SUPPRESSED_LOGIT))
        return masks


def _resize_mask(mask: ArrayLike, side: int) -> Float[np.ndarray, "{side} {side}"]:
    """A mask of any size at the model's input size, 0 or 1."""
    array = to_numpy(mask)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"mask must have shape (h, w), got {array.shape}")
    binary = (array != 0).astype(np.float32)
    if binary.shape == (side, side):
        return binary
    rows, columns = (antialiased_matrix(n, side) for n in binary.shape)
    return (rows @ binary @ columns.T >= 0.5).astype(np.float32)
