"""`sam2refiner track` of a folder of videos: several advance together, and each has the results that it has alone."""

import dataclasses
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from ..data.files import file_named, files_in, folders_in
from ..data.masks import numbers_picture
from ..video.clip_batch import ClipBatch
from ..video.predictor import SAM2VideoPredictor
from ..video.propagation import Propagation, Shown
from ..video.state import InferenceState
from ..video.together import advance_together
from .outputs import check_outputs, clear_results, made_of, save_picture, save_scores, source_of
from .track import (
    HISTORY,
    SCORES_FILE,
    FramePrompts,
    Scores,
    number_pixels,
    results_there,
    score_rows,
    scores_by_number,
    write_overlay_video,
)

__all__ = ["VideoJob", "find_videos", "track_folder", "video_jobs"]

VIDEO_SUFFIXES = (
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip


def find_videos(folder: Path) -> list[Path]:
    """The videos of a folder, files and folders of frames, sorted by name; none if it holds frames itself.

    Results of earlier runs are no videos.
    """
    if not folder.is_dir() or files_in(folder):
        return []
    frames = [each for each in folders_in(folder) if any(made_of(path) is None for path in files_in(each)[:1])]
    files = [path for path in files_in(folder, VIDEO_SUFFIXES) if made_of(path) is None]
    return sorted([*frames, *files])


@dataclasses.dataclass(frozen=True)
class VideoJob:
    """A video of several, what to track in it, and where its results go.

    Attributes:
      video: a file, or a folder of frames.
      prompts: for it; a mask may be a folder of pictures, each named as the frame that it is for.
      frame: that the others are for.
      folder: for the pictures and the table.
      shown: the video that shows them, if it is to be written.
    """

    video: Path
    prompts: FramePrompts
    frame: int
    folder: Path
    shown: Path | None

    @property
    def source(self) -> str:
        """What results are called after."""
        return source_of(self.video)


def video_jobs(
    videos: Sequence[Path], prompts: FramePrompts, frame: int, output: Path, *, overlay: bool
) -> list[VideoJob]:
    """A job for each video, all of whose results have their places.

    Args:
      videos: from `find_videos`.
      prompts: for all of them; of a mask, the folder with one for each.
      frame: see `VideoJob`.
      output: the folder for the results.
      overlay: whether videos are to show them.

    Raises:
      ValueError: if a video has no mask there, or results would replace what is no earlier result of the same video.
    """
    jobs = []
    for video in videos:
        name, given = video.name if video.is_dir() else video.stem, prompts
        if prompts.mask is not None:
            given = dataclasses.replace(prompts, mask=_mask_of(prompts.mask, name))
        jobs.append(VideoJob(video, given, frame, output / name, output / f"{name}.mp4" if overlay else None))
    places = [
        (path, job.source)
        for job in jobs
        for path in (*results_there(job.folder), job.folder / SCORES_FILE, *([job.shown] if job.shown else []))
    ]
    check_outputs(places, [*videos, *(job.prompts.mask for job in jobs if job.prompts.mask)])
    return jobs


def _mask_of(masks: Path, name: str) -> Path:
    picture, folder = file_named(masks, name), masks / name
    if not masks.is_dir():
        raise ValueError(f"mask must be a folder with a mask for each video, got {masks}")
    if not picture.exists() and not folder.is_dir():
        raise ValueError(f"{masks} must hold a mask for each video; it has neither {picture.name} nor a folder {name}")
    return picture if picture.exists() else folder


@dataclasses.dataclass(frozen=True)
class Leg:
    """A stretch of a video that is tracked in one go.

    Attributes:
      first: the frame where it starts.
      last: where it ends; backwards, where that comes before.
      without_first: the first frame is of an earlier leg.
    """

    first: int
    last: int
    without_first: bool = False


class VideoRun:
    """A video that is open, and what is written of it.

    Args:
      job: the video.
      predictor: to track with.

    Raises:
      OSError, ValueError: if the video cannot be opened, or the prompts cannot be meant on it.
    """

    def __init__(self, job: VideoJob, predictor: SAM2VideoPredictor):
        self.job = job
        self._predictor = predictor
        self._state = predictor.init_state(job.video, history=HISTORY)
        self._names = self._state.frames.names()
        self._legs = deque(_legs(job, predictor, self._state, self._names))
        self._leg = self._legs[0]
        self._masks: dict[int, Path] = {}
        self._scores: dict[int, Scores] = {}

    def next_way(self) -> Propagation | None:
        """The next leg; None after the last."""
        if not self._legs:
            return None
        self._leg = self._legs.popleft()
        first, last = self._leg.first, self._leg.last
        return Propagation.begin(self._predictor, self._state, first, abs(last - first), reverse=last < first)

    def clear(self) -> None:
        """Makes place for the results."""
        self.job.folder.mkdir(parents=True, exist_ok=True)
        for pattern in ("*.png", SCORES_FILE):
            clear_results(self.job.folder, self.job.source, pattern)

    def write(self, shown: Shown) -> None:
        """Writes a picture of a frame's numbers."""
        index, numbers, logits, scores = shown
        if self._leg.without_first and index == self._leg.first:
            return
        path = self.job.folder / f"{self._names[index]}.png"
        save_picture(numbers_picture(number_pixels(logits[:, 0], numbers)), path, self.job.source)
        self._masks[index], self._scores[index] = path, scores_by_number(numbers, scores)

    def end(self, *, show_scores: bool) -> None:
        """Writes the table, and the video that shows the masks that there are."""
        if not self._masks:
            return
        source = self.job.source
        save_scores(score_rows(self._masks, self._scores), self.job.folder / SCORES_FILE, source)
        if self.job.shown is not None:
            scores = self._scores if show_scores else None
            write_overlay_video(self._state.frames, self._masks, self.job.shown, source, scores)


def _legs(job: VideoJob, predictor: SAM2VideoPredictor, state: InferenceState, names: list[str]) -> list[Leg]:
    """Gives a video its prompts; from their first frame to the end, and then to the start."""
    first = job.frame
    if job.prompts.mask is not None and job.prompts.mask.is_dir():
        masks = _masks_by_frame(job.prompts.mask, names)
        for frame, path in masks.items():
            FramePrompts(mask=path).give(predictor, state, frame)
        first = min(masks)
    else:
        job.prompts.give(predictor, state, first)
    return [Leg(first, len(names) - 1), *([Leg(first, 0, without_first=True)] if first > 0 else [])]


def _masks_by_frame(folder: Path, names: list[str]) -> dict[int, Path]:
    """The pictures of a folder of masks by the index of the frame whose name they have."""
    found: dict[int, Path] = {}
    for path in files_in(folder, (".png",)):
        if path.stem not in names:
            raise ValueError(f"masks must have names of frames, {names[0]} to {names[-1]}; got {path}")
        found[names.index(path.stem)] = path
    if not found:
        raise ValueError(f"{folder} must hold masks as <name of a frame>.png, got none")
    return found


def track_folder(predictor: SAM2VideoPredictor, jobs: Sequence[VideoJob], batch: int, *, show_scores: bool) -> None:
    """Tracks through each video; those that cannot be read are named, and the others are done.

    Args:
      predictor: to track with.
      jobs: the videos.
      batch: how many are tracked at a time, over all devices that can have as many each.
      show_scores: write scores beside the objects.

    Raises:
      ValueError: if any video could not be tracked to its end.
    """
    failures = 0
    with tqdm(total=len(jobs), unit="video") as bar:
        for job, error in _done(predictor, jobs, batch, show_scores):
            bar.update()
            if error is not None:
                failures += 1
                tqdm.write(f"sam2refiner: {job.video.name}: {error}", file=sys.stderr)
    output = jobs[0].folder.parent
    if failures:
        raise ValueError(
            f"{failures} of {len(jobs)} videos could not be tracked to their ends; the others are in {output}"
        )
    print(f"{len(jobs)} videos; masks and scores" + (", and overlays" if jobs[0].shown else "") + f" are in {output}")


def _done(
    predictor: SAM2VideoPredictor, jobs: Sequence[VideoJob], batch: int, show_scores: bool
) -> Iterator[tuple[VideoJob, Exception | None]]:
    """Each video when its results are written, with what went wrong."""
    waiting, going_on = deque(jobs), deque[Propagation]()
    runs: dict[Propagation, VideoRun] = {}
    refused: deque[tuple[VideoJob, Exception]] = deque()

    def next_clip() -> Propagation | None:
        if going_on:
            return going_on.popleft()
        while waiting:
            job = waiting.popleft()
            try:
                return opened(job)
            except (ValueError, OSError) as error:
                refused.append((job, error))
        return None

    def opened(job: VideoJob) -> Propagation:
        run = VideoRun(job, predictor)
        way = run.next_way()
        assert way is not None
        run.clear()
        runs[way] = run
        return way

    for way, shown in advance_together(next_clip, ClipBatch(predictor, _mesh_for(batch), most=batch)):
        while refused:
            yield refused.popleft()
        if isinstance(shown, tuple):
            runs[way].write(shown)
            continue
        run = runs.pop(way)
        following = None if shown is not None else run.next_way()
        if following is not None:
            runs[following] = run
            going_on.append(following)
            continue
        run.end(show_scores=show_scores)
        yield run.job, shown
    yield from refused


def _mesh_for(batch: int) -> Mesh | None:
    """As many of this process's devices as can have equal parts of the batch."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    return Mesh(np.array(devices[:count]), ("clips",)) if count > 1 else None
