"""Live streams by name, whose frames are given as they arrive and tracked as one batch."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
from jaxtyping import Float

from ..image.preprocess import Photo
from .clip_batch import ClipBatch
from .frames import Ahead, LiveFrames
from .propagation import Propagation, Shown
from .state import FrameScores, InferenceState, ObjectHistory, scores_of

if TYPE_CHECKING:
    from .predictor import SAM2VideoPredictor

__all__ = ["LiveStreams"]

T = TypeVar("T")
Masks = Float[np.ndarray, "objects 1 h w"]


@dataclasses.dataclass
class Stream:
    """A live stream.

    Attributes:
      state: to give prompts to.
      frames: the last ones.
      way: how its objects are tracked; None while it has none.
      prompted: on which frames each of these has prompts, and how many exemplars.
    """

    state: InferenceState
    frames: LiveFrames
    way: Propagation | None = None
    prompted: list[tuple[set[int], int]] = dataclasses.field(default_factory=list)

    def take_prompts(self, predictor: "SAM2VideoPredictor") -> None:
        """Looks whether the objects or their prompts are others than they were.

        Raises:
          RuntimeError: if an object has no prompts.
        """
        objects = list(self.state.objects.values())
        if not objects:
            self.way = None
            return
        if (
            self.way is None
            or [*map(id, objects)] != [*map(id, self.way.objects)]
            or any(history.new_frames() for history in objects)
            or _prompts_of(objects) != self.prompted
        ):
            predictor.propagate_in_video_preflight(self.state)
            self.way = Propagation(predictor, self.state, (), reverse=False)
            self.prompted = _prompts_of(objects)


def _prompts_of(objects: list[ObjectHistory]) -> list[tuple[set[int], int]]:
    return [(set(history.prompted), len(history.exemplars)) for history in objects]


class LiveStreams:
    """Live streams by name, advanced as one batch; from `SAM2VideoPredictor.open_streams`.

    ```python
    streams = predictor.open_streams()
    predictor.add_new_points_or_box(streams.add("door", frame), 0, 1, points=[[210, 350]], labels=[1])
    results = streams.step({"door": next_frame})  # by name, what propagate_in_video yields
    ```

    A stream joins and leaves at any time. Prompts are given to its state, `streams["door"]`, on any of the frames that
    are kept, and count from the next step on. In a step only those streams advance whose next frame is given.
    """

    def __init__(self, predictor: "SAM2VideoPredictor", batch: ClipBatch, history: int):
        self._predictor = predictor
        self._batch = batch
        self._history = history
        self._streams: dict[Hashable, Stream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._streams)

    def __contains__(self, name: object) -> bool:
        return name in self._streams

    def __getitem__(self, name: Hashable) -> InferenceState:
        """A stream's state, for prompts, scores and the ids of its objects.

        Raises:
          ValueError: if there is no such stream.
        """
        return self._named(name).state

    def add(self, name: Hashable, frame: Photo) -> InferenceState:
        """Begins a stream.

        Args:
          name: of the caller's choice.
          frame: its first frame, frame 0; all others must have its size.

        Returns:
          The stream's state, to give prompts to.

        Raises:
          TypeError, ValueError: if there is a stream of that name, or the frame is no picture.
        """
        if name in self._streams:
            raise ValueError(f"name must be new, got {name!r}, which is a stream; remove it first")
        config = self._predictor.model.config
        frames = LiveFrames(config.image_size, kept=self._history)
        frames.push(frames.squeezed(frame))
        state = InferenceState(frames, None, self._history, recent=config.max_obj_ptrs_in_encoder)
        self._streams[name] = Stream(state, frames)
        return state

    def remove(self, name: Hashable) -> None:
        """Ends a stream, whose place is free for others.

        Raises:
          ValueError: if there is no such stream.
        """
        self._named(name)
        del self._streams[name]

    @overload
    def step(
        self, frames: Mapping[Any, Photo], *, return_scores: Literal[False] = False
    ) -> dict[Any, tuple[int, list[Any], Masks]]: ...

    @overload
    def step(
        self, frames: Mapping[Any, Photo], *, return_scores: Literal[True]
    ) -> dict[Any, tuple[int, list[Any], Masks, FrameScores]]: ...

    def step(self, frames: Mapping[Any, Photo], *, return_scores: bool = False) -> dict[Any, tuple[Any, ...]]:
        """Tracks all objects into the next frame of some streams, or of all.

        Args:
          frames: the next frame of each, by name.
          return_scores: also return how sure the model is of each object.

        Returns:
          By name, what `SAM2VideoPredictor.propagate_in_video` yields: the frame's index, all object ids, and mask
          logits, (objects, 1, height, width); with `return_scores` also `FrameScores`. A stream may have no objects.

        Raises:
          RuntimeError: if an object has no prompts.
          TypeError, ValueError: if there is no such stream, or a frame is no picture or of another size than the
            stream's first. With any of these errors no stream has advanced.
        """
        given = {name: self._named(name) for name in frames}
        squeezing = {
            name: Ahead(functools.partial(stream.frames.squeezed, frames[name])) for name, stream in given.items()
        }
        images = {name: self._for(name, image.result) for name, image in squeezing.items()}
        for name, stream in self._streams.items():
            self._for(name, functools.partial(stream.take_prompts, self._predictor))
        coming = {name: (stream.frames.push(images[name]), images[name]) for name, stream in given.items()}
        tracked = {stream.way: coming[name] for name, stream in given.items() if stream.way is not None}
        found: dict[Propagation | None, Shown] = {}
        if tracked:
            # A stream that waits is to be looked for on the frame after its last.
            ways = [(stream.way, stream.frames.indices().stop) for stream in self._streams.values()]
            self._batch.seat({way: stop - (way in tracked) for way, stop in ways if way is not None})
            under_way = self._batch.start(tracked)
            for stream in given.values():
                stream.state.store_old()  # while the devices compute
            found = dict(self._batch.finish(under_way))
        shown = {
            name: found[stream.way] if stream.way in found else self._without_objects(stream, coming[name][0])
            for name, stream in given.items()
        }
        return {name: values if return_scores else values[:3] for name, values in shown.items()}

    def _named(self, name: Hashable) -> Stream:
        if name not in self._streams:
            raise ValueError(f"name must be one of the streams {list(self._streams)}, got {name!r}")
        return self._streams[name]

    def _for(self, name: Hashable, call: Callable[[], T]) -> T:
        """What the call returns; errors name the stream."""
        try:
            return call()
        except (TypeError, ValueError, RuntimeError) as error:
            raise type(error)(f"stream {name!r}: {error}") from error

    def _without_objects(self, stream: Stream, frame_idx: int) -> Shown:
        stream.state.last_frame = frame_idx
        return frame_idx, [], self._predictor._to_video_size(stream.state, []), scores_of([])
