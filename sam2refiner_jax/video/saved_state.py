"""A video predictor's state in a file, so that tracking goes on with the same bits in another process."""

import functools
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from ..image.conversation import Asked, Conversation, Turn
from ..image.preprocess import Photo
from ..refiners import Refiner
from ..sam2 import SAM2
from ..settings import setting_differences
from .array_archive import ArchiveError, ArrayArchive, save_archive
from .exemplars import Exemplar, exemplar_arrays, read_exemplar
from .made_with import check_same_model, id_to_save, model_facts
from .memory_bank import MemoryBank
from .policies import MemoryPolicy
from .snapshots import Snapshot
from .state import FrameRecord, GoingOn, InferenceState, ObjectHistory, ObjectOnFrame

__all__ = ["SavesStates", "read_notes"]

WHAT = "saved state"
FORMAT = "sam2refiner_jax state 1"
RESULTS = ("prompted", "tracked", "new_prompted", "new_tracked")
OPTIONS = (
    "fill_hole_area",
    "non_overlap_masks",
    "clear_non_cond_mem_around_input",
    "add_all_frames_to_correct_as_cond",
)

Arrays = Iterator[tuple[str, Shaped[np.ndarray, "..."]]]


class SavesStates:
    """The part of a video predictor that keeps states in files."""

    model: SAM2
    memory: MemoryPolicy
    memory_dtype: np.dtype

    def save_state(
        self, inference_state: InferenceState, path: str | os.PathLike[str], *, overwrite: bool = False
    ) -> None:
        """Writes a state to a file, from which `load_state` goes on with the same bits, also in another process.

        In it are the prompts, all results with their memories, scores and what a refiner carries from click to click,
        exemplars, and the memories with which a propagation goes on, of all paths of a policy; not the video. A state
        can be saved between any two frames, in the middle of `propagate_in_video` too. The file is an .npz without
        pickles, and appears whole or not at all. With `init_state(history=16)` it has at most some 50 frames of each
        object, however long the video.

        Args:
          inference_state: from `init_state`, of a stored clip.
          path: of the file, such as "clip.npz".
          overwrite: replace a file that is there.

        Raises:
          FileExistsError: if there is one, unless `overwrite`.
          OSError: if it cannot be written.
          ValueError: if frames come from an iterator, which nobody can give again, or the id of an object is neither
            text nor a whole number.
        """
        state = inference_state
        if state.num_frames is None:
            raise ValueError(
                "inference_state is of frames that an iterator gives, and they cannot be read again: save the state of "
                "a folder, a video file or a list of frames"
            )
        going_on = state.going_on
        header = {
            "format": FORMAT,
            "made_with": self._made_with(),
            "video": _video_facts(state, state.last_frame),
            "history": state.history,
            "notes": state.notes,
            "objects": [_describe(obj_id, history) for obj_id, history in state.objects.items()],
            "going_on": None
            if going_on is None
            else {"frame": going_on.frame, "reverse": going_on.reverse, "rows": _objects_in(going_on.bank)},
        }
        save_archive(path, header, _arrays_of(state), overwrite=overwrite)

    def load_state(
        self,
        path: str | os.PathLike[str],
        video_path: str | os.PathLike[str] | bytes | Sequence[Photo] | np.ndarray | Iterable[Photo],
    ) -> InferenceState:
        """A state as it was saved. Propagation goes on where it stopped: from the next frame in its direction.

        Args:
          path: of a file that `save_state` wrote.
          video_path: the video it is of, as for `init_state`; no iterator.

        Raises:
          ArchiveError: if it is no such file or a damaged one, naming it.
          FileNotFoundError: if there is none.
          ValueError: if this predictor is another, naming the settings that differ, or the video is.
        """
        with ArrayArchive(path, WHAT) as archive:
            header = archive.header
            if header.get("format") != FORMAT:
                raise ArchiveError(f"{path} must be a {WHAT} of the form {FORMAT!r}, got {header.get('format')!r}")
            check_same_model(path, header["made_with"], self._made_with())
            state = self.init_state(video_path, history=header["history"])  # type: ignore[attr-defined]
            if state.num_frames is None:
                raise ValueError("video_path must be a stored clip, as the state's was, got an iterator of frames")
            last = header["video"]["last_frame"]
            differences = setting_differences(header["video"], _video_facts(state, last, header["video"]["num_frames"]))
            if differences:
                raise ValueError(f"{path} is the state of another video: {'; '.join(differences)}")
            state.last_frame, state.notes = last, header["notes"]
            for index, described in enumerate(header["objects"]):
                history = _read_history(archive, str(index), described, self.model.refiner, state)
                state.objects[described["id"]] = history
            if header["going_on"] is not None:
                bank = self._read_bank(archive, header["going_on"]["rows"])
                state.going_on = GoingOn(
                    bank, header["going_on"]["frame"], header["going_on"]["reverse"], state.obj_ids
                )
            return state

    @functools.cached_property
    def _model_facts(self) -> dict[str, Any]:
        """Found once, as it reads all weights."""
        return model_facts(self.model, self.memory_dtype)

    def _made_with(self) -> dict[str, Any]:
        """What results depend on, as plain values."""
        return {
            **self._model_facts,
            "memory": repr(self.memory),
            **{name: getattr(self, name) for name in OPTIONS},
        }

    def _read_bank(self, archive: ArrayArchive, objects: int) -> MemoryBank:
        """The bank of so many objects, in host memory."""
        empty = MemoryBank.empty(self.model.config, objects, dtype=self.memory_dtype, policy=self.memory)
        leaves, structure = jax.tree.flatten(empty)
        return jax.tree.unflatten(structure, [archive[f"going_on/{i}"] for i in range(len(leaves))])


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The notes of a saved state, without the rest.

    Raises:
      ArchiveError: if it is no saved state, or a damaged one.
      FileNotFoundError: if there is none.
    """
    with ArrayArchive(path, WHAT) as archive:
        notes = archive.header.get("notes")
        if archive.header.get("format") != FORMAT or not isinstance(notes, dict):
            raise ArchiveError(f"{path} must be a {WHAT} of the form {FORMAT!r}")
        return notes


def _video_facts(state: InferenceState, last_frame: int | None, num_frames: int | None = None) -> dict[str, Any]:
    """What tells a clip from another, without reading all of it; of a clip of another length, no frame is read."""
    facts = {
        "num_frames": state.num_frames,
        "height": state.video_height,
        "width": state.video_width,
        "last_frame": last_frame,
    }
    if num_frames is not None and num_frames != state.num_frames:
        return {**facts, "pictures": None}
    return {**facts, "pictures": [zlib.crc32(state.frames[frame].tobytes()) for frame in (0, last_frame or 0)]}


def _describe(obj_id: Any, history: ObjectHistory) -> dict[str, Any]:
    """What is known of an object, but for the arrays."""
    return {
        "id": id_to_save(obj_id),
        "in_memory": history.in_memory,
        "exemplars": len(history.exemplars),
        "frames": [_describe_record(frame, record) for frame, record in history.frames.items()],
    }


def _describe_record(frame: int, record: FrameRecord) -> dict[str, Any]:
    results = {name: getattr(record, name) for name in RESULTS}
    turns = None if record.conversation is None else record.conversation.turns
    return {
        "frame": frame,
        "reverse": record.reverse,
        "results": {
            name: {
                "in_file": result.stored is not None,
                "snapshot": None if result.snapshot is None else len(result.snapshot.state),
            }
            for name, result in results.items()
            if result is not None
        },
        "turns": None if turns is None else [[asked.photo for asked in turn.asked] for turn in turns],
    }


def _arrays_of(state: InferenceState) -> Arrays:
    for index, history in enumerate(state.objects.values()):
        for frame, record in history.frames.items():
            place = f"{index}/{frame}"
            if record.points is not None:
                yield f"{place}/points", record.points[0]
                yield f"{place}/labels", record.points[1]
            if record.mask is not None:
                yield f"{place}/mask", record.mask
            for name in RESULTS:
                result = getattr(record, name)
                if result is not None:
                    yield from _result_arrays(f"{place}/{name}", result)
            if record.conversation is not None:
                yield from _conversation_arrays(f"{place}/turn", record.conversation)
        for number, exemplar in enumerate(history.exemplars):
            yield from exemplar_arrays(f"{index}/exemplar/{number}", exemplar)
    if state.going_on is not None:
        for i, leaf in enumerate(jax.tree.leaves(state.going_on.bank)):
            yield f"going_on/{i}", np.asarray(jax.device_get(leaf))


def _result_arrays(place: str, result: ObjectOnFrame) -> Arrays:
    for name in ("mask", "pointer", "memory", "refined"):
        value = getattr(result, name)
        if value is not None:
            yield f"{place}/{name}", value
    yield f"{place}/scores", np.array([result.object_score_logit, result.predicted_iou], np.float64)
    if result.snapshot is not None:
        yield f"{place}/recent", result.snapshot.recent
        for i, leaf in enumerate(result.snapshot.state):
            yield f"{place}/state/{i}", leaf


def _conversation_arrays(place: str, conversation: Conversation) -> Arrays:
    for number, turn in enumerate(conversation.turns):
        for row, asked in enumerate(turn.asked):
            yield f"{place}/{number}/{row}/points", asked.points
            yield f"{place}/{number}/{row}/labels", asked.labels
        for i, leaf in enumerate(jax.tree.leaves(turn.carry)):
            yield f"{place}/{number}/carry/{i}", np.asarray(leaf)


def _read_history(
    archive: ArrayArchive, place: str, described: dict[str, Any], refiner: Refiner | None, state: InferenceState
) -> ObjectHistory:
    history = ObjectHistory(in_memory=described["in_memory"], num_frames=state.num_frames)
    for of_frame in described["frames"]:
        record, here = FrameRecord(reverse=of_frame["reverse"]), f"{place}/{of_frame['frame']}"
        points = archive.find(f"{here}/points")
        record.points = None if points is None else (points, archive[f"{here}/labels"])
        record.mask = archive.find(f"{here}/mask")
        for name, of_result in of_frame["results"].items():
            result = _read_result(archive, f"{here}/{name}", of_result["snapshot"])
            if of_result["in_file"]:
                result.move_to(state.file)
            setattr(record, name, result)
        if of_frame["turns"] is not None:
            record.conversation = Conversation(_read_turns(archive, f"{here}/turn", of_frame["turns"], refiner))
        history.frames[of_frame["frame"]] = record
    history.exemplars = _read_exemplars(archive, f"{place}/exemplar", described["exemplars"])
    return history


def _read_exemplars(archive: ArrayArchive, place: str, count: int) -> list[Exemplar]:
    return [read_exemplar(archive, f"{place}/{number}") for number in range(count)]


def _read_result(archive: ArrayArchive, place: str, snapshot: int | None) -> ObjectOnFrame:
    object_score_logit, predicted_iou = archive[f"{place}/scores"].tolist()
    result = ObjectOnFrame(
        archive[f"{place}/mask"],
        archive[f"{place}/pointer"],
        object_score_logit,
        predicted_iou,
        archive.find(f"{place}/memory"),
        archive.find(f"{place}/refined"),
    )
    if snapshot is not None:
        leaves = tuple(archive[f"{place}/state/{i}"] for i in range(snapshot))
        result.snapshot = Snapshot(archive[f"{place}/recent"], leaves)
    return result


def _read_turns(
    archive: ArrayArchive, place: str, photos: Iterable[Sequence[int]], refiner: Refiner | None
) -> list[Turn]:
    """The turns of a conversation, whose carries have the structure of the refiner's first one."""
    turns = []
    for number, of_turn in enumerate(photos):
        here = f"{place}/{number}"
        asked = [
            Asked(photo, archive[f"{here}/{row}/points"], archive[f"{here}/{row}/labels"])
            for row, photo in enumerate(of_turn)
        ]
        leaves, structure = jax.tree.flatten(() if refiner is None else refiner.initial_carry(len(asked)))
        carry = jax.tree.unflatten(structure, [archive[f"{here}/carry/{i}"] for i in range(len(leaves))])
        turns.append(Turn(asked, carry))
    return turns


def _objects_in(bank: MemoryBank) -> int:
    return len(bank.recent.frames) // bank.policy.paths
