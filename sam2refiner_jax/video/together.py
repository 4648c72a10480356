"""Stored clips side by side: as many at a time as there are places, the next one where one ends."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from jax.sharding import Mesh

from .clip_batch import ClipBatch, Frame, Step
from .propagation import Propagation, Shown
from .state import InferenceState

__all__ = ["advance_together", "batch_size", "propagate_states"]

# Clips at a time on each device, unless told otherwise.
CLIPS_PER_DEVICE = 4


def batch_size(batch: int | None, mesh: Mesh | None) -> int:
    """How many clips are to advance together.

    Raises:
      ValueError: if the devices cannot have as many each.
    """
    devices = 1 if mesh is None else mesh.size
    if batch is None:
        return CLIPS_PER_DEVICE * devices
    if batch < 1 or batch % devices:
        of = f" and a multiple of the {devices} devices of the mesh" if mesh is not None else ""
        raise ValueError(f"batch must be at least 1{of}, got {batch}")
    return batch


def advance_together(
    next_clip: Callable[[], Propagation | None], batch: ClipBatch
) -> Iterator[tuple[Propagation, Shown | Exception | None]]:
    """Takes clips along their ways as one batch.

    While the devices work on a frame of each clip, the frames before are shown, unless they have to be known first.

    Args:
      next_clip: gives the clip to fill a free place, or None if none is waiting now; asked before every frame.
      batch: where the clips are, with place for `most` of them.

    Yields:
      A clip with a frame of it, or in the end with None, or with the error for which its next frame cannot be had. One
      clip's error does not end the others.

    Raises:
      OSError: if older results cannot be written to a temporary file; none is lost.
    """
    here: dict[Propagation, Frame] = {}
    under_way: Step | None = None

    def finish() -> Iterator[tuple[Propagation, Shown]]:
        nonlocal under_way
        step, under_way = under_way, None
        if step is not None:
            yield from batch.finish(step)

    while True:
        following: dict[Propagation, Frame] = {}
        candidates = deque(here)
        while len(following) < batch.most:
            clip = candidates.popleft() if candidates else next_clip()
            if clip is None:
                break
            frame = _next_frame(clip)
            while isinstance(frame, tuple) and not clip.active(frame[0]).any():  # nothing to look for
                yield from finish()
                yield clip, clip.leave(frame[0])
                frame = _next_frame(clip)
            if isinstance(frame, tuple):
                following[clip] = frame
            else:
                yield from finish()
                yield clip, frame
        if not following:
            return
        if following.keys() != here.keys() or any(clip.is_stale for clip in following):
            yield from finish()
            batch.seat({clip: frame_idx for clip, (frame_idx, _) in following.items()})
        step, here = batch.start(following), following
        for clip in here:
            clip.state.store_old()  # while the devices compute
        yield from finish()
        under_way = step
        if not all(map(_may_wait, here)):
            yield from finish()


def propagate_states(
    states: Iterable[InferenceState],
    begin: Callable[[InferenceState], Propagation],
    batch: ClipBatch,
) -> Iterator[tuple[InferenceState, Shown]]:
    """`SAM2VideoPredictor.propagate_together`; `begin` makes a clip's way."""
    numbers: dict[int, int] = {}
    failures: dict[int, Exception] = {}

    def begun() -> Iterator[Propagation]:
        for number, state in enumerate(states):
            if id(state) in numbers:
                raise ValueError(
                    f"inference_states must be different clips, got one as [{numbers[id(state)]}] and [{number}]"
                )
            numbers[id(state)] = number
            try:
                clip = begin(state)
            except (ValueError, RuntimeError) as error:
                raise type(error)(f"inference_states[{number}]: {error}") from error
            state.features = None  # of one frame, which is of no more use; those of many clips would fill a device
            yield clip

    clips = begun()
    if isinstance(states, Sequence):
        clips = iter(sorted(clips, key=_length, reverse=True))
    for clip, shown in advance_together(lambda: next(clips, None), batch):
        if isinstance(shown, tuple):
            yield clip.state, shown
            continue
        number = numbers.pop(id(clip.state))
        if shown is not None:
            failures[number] = shown
    if failures:
        said = "; ".join(f"inference_states[{number}]: {error}" for number, error in failures.items())
        raise ValueError(f"clips could not be tracked to their ends: {said}") from next(iter(failures.values()))


def _length(clip: Propagation) -> int:
    """The number of frames to go through; of a stream, more than any."""
    return len(clip.order) if isinstance(clip.order, Sequence) else sys.maxsize


def _next_frame(clip: Propagation) -> Frame | Exception | None:
    """The clip's next frame; None after the last."""
    try:
        return next(clip.frames, None)
    except (ValueError, OSError, RuntimeError) as error:
        return error


def _may_wait(clip: Propagation) -> bool:
    """Whether the clip's next frame can be worked on before this one is shown and recorded."""
    is_live = clip.state.num_frames is None  # the next frame may be long in coming
    return not (is_live or clip.looks_back)
