"""Clips that advance as one batch over the devices: which place each has, and what the devices remember of them."""

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, UInt8

from ..features import ImageFeatures
from ..flat_model import flat_model
from ..image.prompts import bucket
from ..nn.prompt_encoder import Prompts
from ..sam2 import SAM2
from .memory_bank import MemoryBank
from .propagation import NO_CLICKS, Propagation, Shown, first_prompts
from .slots import UNKNOWN_LENGTH, ObjectFrames
from .snapshots import take_snapshots
from .tracking import TrackedFrame, advance, encode_frames, track_frame

if TYPE_CHECKING:
    from .predictor import SAM2VideoPredictor

__all__ = ["ClipBatch", "Frame", "ambient_mesh"]

# A frame's index, and the frame at the model's input size.
Frame = tuple[int, UInt8[np.ndarray, "s s 3"]]

EVERYWHERE = PartitionSpec()
# A program for so many times fewer rows is worth a change of shapes.
WORTH_SHRINKING = 4
UNLIMITED = 2**29

_encode_frames = jax.jit(encode_frames)


def ambient_mesh() -> Mesh | None:
    """The mesh that `jax.set_mesh` sets around the caller, if it has several devices.

    Raises:
      ValueError: if some are another process's.
    """
    mesh = jax.sharding.get_mesh()
    if not isinstance(mesh, Mesh) or mesh.size <= 1:
        return None
    if mesh.is_multi_process:
        raise ValueError("the mesh must be of this process's devices; each process can track clips of its own")
    return mesh


class Seat(NamedTuple):
    """Where a clip is in the batch: its image's place, and the first of its objects' rows."""

    place: int
    row: int


class Shape(NamedTuple):
    """What is compiled for: on each device, places of images and rows of objects; and slots of prompted frames."""

    places: int
    rows: int
    slots: int


@dataclasses.dataclass(frozen=True)
class Step:
    """A frame of several clips that the devices work on."""

    tracked: TrackedFrame
    frames: Mapping[Propagation, Frame]


class ClipBatch:
    """Up to so many clips on the devices, each with places for an image and rows for its objects.

    Every device has as many places and rows as any other, both rounded up to powers of two, so that clips come and go
    without another compilation. A clip is on one device as a whole, so that nothing is exchanged between them.

    Args:
      predictor: whose model, memory policy and settings count.
      mesh: the devices; that of the model unless given.
      clips: how many clips there is place for at least.
      objects: how many objects there are rows for at least.
      most: how many clips there ever are; by default any number.

    Attributes:
      most: as given.
      devices: how many there are.
    """

    def __init__(
        self,
        predictor: "SAM2VideoPredictor",
        mesh: Mesh | None,
        *,
        clips: int = 1,
        objects: int = 1,
        most: int = UNLIMITED,
    ):
        self._predictor = predictor
        self._mesh = mesh
        self.devices = 1 if mesh is None else mesh.size
        self.most = most
        self._least = Shape(self._per_device(clips), self._per_device(objects), 1)
        self._model = predictor.model
        if mesh is not None:
            self._model = jax.device_put(predictor.model, NamedSharding(mesh, EVERYWHERE))
        self._seats: dict[Propagation, Seat] = {}
        self._slots: dict[Propagation, int] = {}  # that each needs
        self._shape = Shape(0, 0, 0)
        self._bank: MemoryBank | None = None
        self._where = _nowhere(0)
        self._origins: Prompts | None = None

    def seat(self, clips: Mapping[Propagation, int]) -> None:
        """Gives these clips places, and no others.

        Those that had one keep what the devices remember of them, unless that is stale. The memories of the others are
        what their states know.

        Args:
          clips: with the frame that each is to be looked for on next.
        """
        known = {clip: seat for clip, seat in self._seats.items() if clip in clips and not clip.is_stale}
        if self._bank is None:  # at first, and where a step has failed
            known = {}
        news = {clip: jax.device_get(clip.bank(frame_idx)) for clip, frame_idx in clips.items() if clip not in known}
        slots = {clip: bank.prompted.frames.shape[1] for clip, bank in news.items()}
        self._slots = {clip: self._slots[clip] for clip in known} | slots
        layout, shape = self._layout(clips)
        if not news and shape == self._shape:
            self._seats = known
            return
        predictor, paths = self._predictor, self._predictor.memory.paths
        bank = MemoryBank.empty(
            predictor.model.config,
            self.devices * shape.rows,
            prompted_slots=shape.slots,
            dtype=predictor.memory_dtype,
            policy=predictor.memory,
        )
        before = jax.device_get(self._bank)
        for clip, seat in layout.items():
            source, row = (before, known[clip].row) if clip in known else (news[clip], 0)
            _copy_rows(source, row * paths, bank, seat.row * paths, len(clip.objects) * paths)
        self._seats, self._shape = layout, shape
        self._bank = self._on_devices(bank)
        self._where = self._all_rows()
        self._origins = self._on_devices(self._first_prompts())

    def start(self, frames: Mapping[Propagation, Frame]) -> Step:
        """Sets the devices to work on a frame of each of these clips; what is remembered of others does not change."""
        size, where = self._predictor.model.config.image_size, self._where
        images = np.zeros((self.devices * self._shape.places, size, size, 3), np.uint8)
        active, index = np.zeros(len(where.image), bool), np.zeros(len(where.image), np.int32)
        for clip, (frame_idx, image) in frames.items():
            place, row = self._seats[clip]
            rows = slice(row, row + len(clip.objects))
            images[place], index[rows], active[rows] = image, frame_idx, clip.active(frame_idx)
        where = dataclasses.replace(where, frame=index)
        bank, self._bank = self._bank, None  # whose buffers are given away
        assert bank is not None
        model = flat_model(self._model)
        if self._mesh is None:
            features = _encode_frames(model, images)
            self._bank, tracked = track_frame(model, bank, features, where, active, self._origins)
        else:
            images, where, active = self._on_devices((images, where, active))
            features = _encode_on_devices(model, images, self._mesh)
            arguments = model, bank, features, where, active, self._origins
            self._bank, tracked = _track_on_devices(*arguments, mesh=self._mesh)
        return Step(tracked, frames)

    def finish(self, step: Step) -> list[tuple[Propagation, Shown]]:
        """Waits for a step and keeps its results; between the two no clip may have changed its place.

        Of policies that have to be told what they knew, the next step may not have been started either.
        """
        found, memory = jax.device_get((step.tracked.segmentation, step.tracked.memory))
        assert self._bank is not None
        snapshots = take_snapshots(self._bank, len(self._where.image))
        results = []
        for clip, (frame_idx, _) in step.frames.items():
            row = self._seats[clip].row
            rows = slice(row, row + len(clip.objects))
            here, memories = jax.tree.map(lambda x, rows=rows: x[rows], (found, memory))
            clip.record(frame_idx, clip.active(frame_idx), here, memories, snapshots[rows])
            results.append((clip, clip.leave(frame_idx)))
        return results

    def _per_device(self, count: int) -> int:
        return bucket(-(-count // self.devices))

    def _layout(self, clips: Collection[Propagation]) -> tuple[dict[Propagation, Seat], Shape]:
        """A place for each clip, the devices' rows evenly used, and the shape that results."""
        places = min(max(self._per_device(len(clips)), self._least.places), -(-self.most // self.devices))
        taken, used = np.zeros(self.devices, int), np.zeros(self.devices, int)
        chosen: dict[Propagation, tuple[int, int, int]] = {}
        for clip in sorted(clips, key=lambda clip: -len(clip.objects)):
            device = int(np.lexsort((taken, used, taken >= places))[0])
            chosen[clip] = device, int(taken[device]), int(used[device])
            taken[device] += 1
            used[device] += len(clip.objects)
        rows, slots = max(bucket(int(used.max())), self._least.rows), max(self._slots.values())
        if places == self._shape.places:
            rows, slots = _unless_much_less(rows, self._shape.rows), _unless_much_less(slots, self._shape.slots)
        seats = {
            clip: Seat(device * places + place, device * rows + row) for clip, (device, place, row) in chosen.items()
        }
        return seats, Shape(places, rows, slots)

    def _all_rows(self) -> ObjectFrames:
        """What does not change from frame to frame: each row's image, on its device, and what its clip is like."""
        where = _nowhere(self.devices * self._shape.rows)
        for clip, seat in self._seats.items():
            here, length = slice(seat.row, seat.row + len(clip.objects)), clip.state.num_frames
            where.image[here] = seat.place % self._shape.places
            where.num_frames[here] = UNKNOWN_LENGTH if length is None else length
            where.reverse[here] = clip.reverse
        return where

    def _first_prompts(self) -> Prompts | None:
        """Of all rows (`first_prompts`)."""
        clicks = [NO_CLICKS] * len(self._where.image)
        for clip, seat in self._seats.items():
            for row, history in enumerate(clip.objects, seat.row):
                clicks[row] = history.first_points(clip.reverse)
        return first_prompts(self._predictor.model, clicks, len(clicks))

    def _on_devices(self, rows: Any) -> Any:
        """Arrays whose first axis is that of all devices' rows or places."""
        return jax.device_put(rows, None if self._mesh is None else NamedSharding(self._mesh, _divided(self._mesh)))


def _nowhere(rows: int) -> ObjectFrames:
    """Rows of no clip."""
    image, frame = np.zeros((2, rows), np.int32)
    return ObjectFrames(image, frame, np.ones(rows, np.int32), np.zeros(rows, bool))


def _unless_much_less(needed: int, there: int) -> int:
    """What there is, if it is enough and not far too much."""
    return there if needed <= there < WORTH_SHRINKING * needed else needed


def _copy_rows(source: MemoryBank, first: int, target: MemoryBank, to: int, count: int) -> None:
    """Copies rows of a bank to one, both in host memory, that may have another number of slots of prompted frames."""
    for old, new in zip(jax.tree.leaves(source), jax.tree.leaves(target), strict=True):
        fitting = tuple(slice(min(a, b)) for a, b in zip(old.shape[1:], new.shape[1:], strict=True))
        new[(slice(to, to + count), *fitting)] = old[(slice(first, first + count), *fitting)]


# Each device runs the same program on clips of its own; nothing is exchanged.


def _divided(mesh: Mesh) -> PartitionSpec:
    """The first axis over all axes of a mesh."""
    return PartitionSpec(mesh.axis_names)


@functools.partial(jax.jit, static_argnames="mesh")
def _encode_on_devices(model: SAM2, images: UInt8[Array, "b s s 3"], mesh: Mesh) -> ImageFeatures:
    part = _divided(mesh)
    encode = jax.shard_map(encode_frames, mesh=mesh, in_specs=(EVERYWHERE, part), out_specs=part, check_vma=False)
    return encode(model, images)


@functools.partial(jax.jit, donate_argnames="bank", static_argnames="mesh")
def _track_on_devices(
    model: SAM2,
    bank: MemoryBank,
    features: ImageFeatures,
    frames: ObjectFrames,
    active: Bool[Array, " objects"],
    origins: Prompts | None,
    *,
    mesh: Mesh,
) -> tuple[MemoryBank, TrackedFrame]:
    part = _divided(mesh)
    specs = EVERYWHERE, part, part, part, part, part
    track = jax.shard_map(advance, mesh=mesh, in_specs=specs, out_specs=(part, part), check_vma=False)
    return track(model, bank, features, frames, active, origins)
