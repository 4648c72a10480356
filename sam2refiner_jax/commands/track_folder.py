"""`sam2refiner track` of a folder of videos: several advance together, and each has the results that it has alone."""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from ..data.files import files_in, folders_in
from ..video.clip_batch import ClipBatch
from ..video.predictor import SAM2VideoPredictor
from ..video.propagation import Propagation
from ..video.together import advance_together
from .outputs import made_of
from .track_run import VideoJob, VideoRun

__all__ = ["find_videos", "track_folder"]

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
    output = jobs[0].progress.folder.parent
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
        runs[way] = run
        return way

    for way, shown in advance_together(next_clip, ClipBatch(predictor, _mesh_for(batch), most=batch)):
        while refused:
            yield refused.popleft()
        if isinstance(shown, tuple):
            runs[way].write_of_way(shown)
            continue
        run = runs.pop(way)
        following = None if shown is not None else run.next_way()
        if following is not None:
            runs[following] = run
            going_on.append(following)
            continue
        run.write_tables(show_scores=show_scores)
        if shown is None:
            run.finish()
        yield run.job, shown
    yield from refused


def _mesh_for(batch: int) -> Mesh | None:
    """As many of this process's devices as can have equal parts of the batch."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    return Mesh(np.array(devices[:count]), ("clips",)) if count > 1 else None
