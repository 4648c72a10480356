"""A run over photos that keeps the device busy: photos are read ahead, and results written behind, in threads."""

import collections
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

from .outputs import DONE_WITH, document_of, source_of
from .photo_prompts import PhotoPrompts

__all__ = ["Job", "PhotoTask", "run_photos"]

# A photo and what it is asked.
Job = tuple[Path, PhotoPrompts]
# Reading is decoding and shrinking, writing is packing PNGs: either takes a core each.
READERS, WRITERS = 4, 4
# How many batches are read ahead, and how many photos may wait to be written, in batches.
AHEAD = 2


@runtime_checkable
class PhotoTask(Protocol):
    """What is done with each photo."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the results depend on besides the photo and its prompts, as plain values."""
        ...

    def files(self, job: Job) -> list[Path]:
        """What may be written: the document first, which is there only when all of a photo's results are."""
        ...

    def read(self, job: Job) -> Any:
        """The photo in the file, as `segment` wants it. Runs in a thread; raises ValueError or OSError."""
        ...

    def segment(self, photos: Sequence[Any]) -> list[Any]:
        """What `write` wants of each photo, or the ValueError that its prompts are."""
        ...

    def write(self, job: Job, found: Any, done_with: dict[str, Any]) -> Path:
        """Writes a photo's results, the document with `done_with` last; returns the overlay's path. In a thread."""
        ...


def run_photos(jobs: Sequence[Job], task: PhotoTask, output: Path, *, batch: int, resume: bool) -> None:
    """Does each photo; those of several that cannot be done are named, and the others are done.

    Args:
      jobs: the photos and their prompts.
      task: what to do with them.
      output: the folder for the results.
      batch: how many photos the device is given at once.
      resume: leave out photos whose results of the same settings and prompts are there as a whole.

    Raises:
      ValueError: if any could not be done.
    """
    waiting = [job for job in jobs if not (resume and _is_done(job, task))]
    if len(waiting) < len(jobs):
        print(f"{len(jobs) - len(waiting)} of {len(jobs)} photos are done already")
    failures, start, overlay = 0, time.perf_counter(), None
    with tqdm(total=len(waiting), unit="photo", disable=len(jobs) == 1) as bar:
        for (path, _), result in _results(waiting, task, batch):
            bar.update()
            if isinstance(result, Exception):
                if len(jobs) == 1:
                    raise result
                failures += 1
                tqdm.write(f"sam2refiner: {path.name}: {result}", file=sys.stderr)
            else:
                overlay = result
    if failures:
        raise ValueError(f"{failures} of {len(jobs)} photos could not be segmented; the others are in {output}")
    if len(jobs) == 1:
        print(f"overlay: {overlay}" if overlay else f"masks, scores and the overlay are in {output}")
    else:
        rate = len(waiting) / (time.perf_counter() - start)
        done = f"{len(waiting)} photos, {rate:.2g} a second; " if waiting else ""
        print(f"{done}masks, scores and overlays are in {output}")


def _results(jobs: Sequence[Job], task: PhotoTask, batch: int) -> Iterator[tuple[Job, Path | Exception]]:
    """Each photo with its overlay's path or with what went wrong, in order."""
    written: collections.deque[tuple[Job, Future[Path] | Exception]] = collections.deque()

    def finished(most: int) -> Iterator[tuple[Job, Path | Exception]]:
        """What was written, until no more than so many wait."""
        while len(written) > most:
            job, result = written.popleft()
            yield job, _result_of(result) if isinstance(result, Future) else result

    with _threads(READERS) as readers, _threads(WRITERS) as writers:
        reading: collections.deque[tuple[Job, Future[Any]]] = collections.deque()
        todo = iter(jobs)
        while True:
            for job in itertools.islice(todo, AHEAD * batch - len(reading)):
                reading.append((job, readers.submit(task.read, job)))
            if not reading:
                break
            here = [reading.popleft() for _ in range(min(batch, len(reading)))]
            read = [(job, _result_of(future)) for job, future in here]
            photos = [photo for _, photo in read if not isinstance(photo, Exception)]
            found = iter(task.segment(photos) if photos else ())
            for job, photo in read:
                result = photo if isinstance(photo, Exception) else next(found)
                if not isinstance(result, Exception):
                    result = writers.submit(task.write, job, result, _done_with(job, task))
                written.append((job, result))
            yield from finished(AHEAD * batch)
        yield from finished(0)


def _result_of(future: Future) -> Any:
    """What a thread returned, or the error of use that it met; other errors are raised."""
    try:
        return future.result()
    except (ValueError, OSError) as error:
        return error


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose work that has not begun is dropped when anything goes wrong."""
    threads = ThreadPoolExecutor(count)
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def _done_with(job: Job, task: PhotoTask) -> dict[str, Any]:
    return {**task.settings, **job[1].as_plain()}


def _is_done(job: Job, task: PhotoTask) -> bool:
    document = document_of(task.files(job)[0], source_of(job[0]))
    return document is not None and document.get(DONE_WITH) == _done_with(job, task)
