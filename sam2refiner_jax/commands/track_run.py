"""One video that `sam2refiner track` goes through, and what is written of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..atomic import remove_partial_files
from ..claims import FolderClaim
from ..data.files import file_named
from ..data.masks import numbers_picture
from ..video.predictor import SAM2VideoPredictor
from ..video.propagation import Propagation
from .outputs import check_outputs, clear_results, save_picture, save_scores, source_of
from .track_legs import Position, Tracked
from .track_progress import DOCUMENT, STATE_FILE, Progress
from .track_prompts import TrackPrompts
from .track_results import (
    SCORES_FILE,
    number_pixels,
    results_there,
    score_rows,
    scores_by_number,
    write_overlay_video,
)

__all__ = ["HISTORY", "VideoJob", "VideoRun", "video_jobs"]

# Tracked frames that are remembered, besides those near the prompts: the command goes once from them to either end, so
# tracking's own reach is enough.
HISTORY = 16


@dataclasses.dataclass(frozen=True)
class VideoJob:
    """A video, what to track in it, and where its results go.

    Attributes:
      video: a file, or a folder of frames.
      prompts: for it.
      progress: how far it is; it knows the folder for the pictures and the tables.
      shown: the video that shows the masks, if it is to be written.
    """

    video: Path
    prompts: TrackPrompts
    progress: Progress
    shown: Path | None


def video_jobs(
    videos: Sequence[Path],
    mask: Path | None,
    prompts_with: Callable[[Path | None], TrackPrompts],
    output: Path,
    settings: Mapping[str, Any],
    *,
    overlay: bool,
    several: bool,
) -> list[VideoJob]:
    """A job for each video, all of whose results have their places.

    Args:
      videos: the videos.
      mask: the masks of a single video; of several, the folder that holds those of each.
      prompts_with: the prompts of a video with these masks of it.
      output: the folder for the results.
      settings: what all results depend on besides the prompts, as JSON gives it back.
      overlay: whether videos are to show the masks.
      several: whether there is a folder of videos, though it hold only one.

    Raises:
      ValueError: if a video has no mask there, or results would replace what is no earlier result of the same video.
    """
    jobs = []
    for video in videos:
        path = video.resolve()
        name = path.name if video.is_dir() else path.stem
        prompts = prompts_with(_mask_of(mask, name) if several and mask is not None else mask)
        progress = Progress(output / name, source_of(video), {**settings, **prompts.as_plain()})
        jobs.append(VideoJob(video, prompts, progress, output / f"{name}.mp4" if overlay else None))
    places = [
        (path, job.progress.source)
        for job in jobs
        for path in (
            *results_there(job.progress.folder),
            job.progress.folder / SCORES_FILE,
            *([job.shown] if job.shown else []),
        )
    ]
    check_outputs(places, [*videos, *(path for job in jobs for path in job.prompts.files())])
    return jobs


def _mask_of(masks: Path, name: str) -> Path:
    picture, folder = file_named(masks, name), masks / name
    if not masks.is_dir():
        raise ValueError(f"mask must be a folder with a mask for each video, got {masks}")
    if not picture.exists() and not folder.is_dir():
        raise ValueError(f"{masks} must hold a mask for each video; it has neither {picture.name} nor a folder {name}")
    return picture if picture.exists() else folder


class VideoRun:
    """A video that is open and has its prompts, with a place for its results.

    Args:
      job: the video.
      predictor: to track with.
      resume: go on where `job.progress` is, if anything is saved.

    Attributes:
      state: of the video.
      legs: in which it is tracked.

    Raises:
      OSError, ValueError: if the video cannot be opened, the prompts cannot be meant on it, or another process writes
        its results.
    """

    def __init__(self, job: VideoJob, predictor: SAM2VideoPredictor, *, resume: bool = False):
        self.job = job
        self._predictor = predictor
        self.state = predictor.init_state(job.video, history=HISTORY)
        self._paths = {i: job.progress.folder / f"{name}.png" for i, name in enumerate(self.state.frames.names())}
        self._found = job.prompts.first_boxes(job.video, self.state)
        self.legs = job.prompts.legs(self.state, self._found)
        self._leg = -1
        loaded = job.progress.load(predictor, job.video, self._paths) if resume else None
        if loaded is not None:
            self.state = loaded
        elif self.legs[0].give is not None:
            self.legs[0].give(predictor, self.state)
        self._make_place(anew=loaded is None)

    def _make_place(self, *, anew: bool) -> None:
        folder, shown = self.job.progress.folder, self.job.shown
        others = (folder / SCORES_FILE, folder / STATE_FILE, folder / DOCUMENT, *([shown] if shown else []))
        folder.mkdir(parents=True, exist_ok=True)
        self._claim = FolderClaim(folder)
        remove_partial_files([*self._paths.values(), *others])
        for pattern in ("*.png", SCORES_FILE, STATE_FILE, DOCUMENT) if anew else ():
            clear_results(folder, self.job.progress.source, pattern)

    def next_way(self) -> Propagation | None:
        """The way through the next leg, for those who take several videos along; None after the last."""
        self._leg += 1
        if self._leg == len(self.legs):
            return None
        leg = self.legs[self._leg]
        if leg.give is not None and self._leg > 0:
            leg.give(self._predictor, self.state)
        return Propagation.begin(
            self._predictor, self.state, leg.first, abs(leg.last - leg.first), reverse=leg.last < leg.first
        )

    def write_of_way(self, tracked: Tracked) -> None:
        """Writes a frame of the leg that `next_way` gave last."""
        leg = self.legs[self._leg]
        if not (leg.without_first and tracked[0] == leg.first):
            self.write(Position(self._leg, tracked[0]), tracked)

    def write(self, position: Position, tracked: Tracked) -> None:
        """Writes a picture of a frame's numbers."""
        index, numbers, logits, scores = tracked
        picture = numbers_picture(number_pixels(logits[:, 0], numbers))
        save_picture(picture, self._paths[index], self.job.progress.source)
        self.job.progress.add(self._predictor, self.state, position, scores_by_number(numbers, scores))

    def write_tables(self, *, show_scores: bool) -> None:
        """Writes the table, and the video that shows the masks that there are."""
        progress, shown = self.job.progress, self.job.shown
        masks = {index: self._paths[index] for index in progress.scores}
        if any(progress.scores.values()):
            save_scores(score_rows(masks, progress.scores), progress.folder / SCORES_FILE, progress.source)
        if shown and masks:
            scores = progress.scores if show_scores else None
            write_overlay_video(self.state.frames, masks, shown, progress.source, scores)

    def finish(self) -> None:
        """Says that all is done."""
        boxes = [box._asdict() for box in self._found]
        results = {"video": self.job.progress.source, "frames": len(self._paths), "detections": boxes}
        self.job.progress.finish(results)
        self._claim.release()
