"""The image benchmark: boxes, points, rough masks and interactive clicks, with runs that go on where they were."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, UInt8
from tqdm import tqdm

from ..data.masks import EmptyMaskError
from .clicks import Click, next_click, number_of_clicks
from .image_sets import Benchmark
from .metrics import boundary_iou, iou, truth_of
from .run_folder import Record, RunFolder
from .segmenters import Answer, Segmenter
from .truth_prompts import (
    CLICKS,
    Prompt,
    folder_of_masks,
    point_count,
    prompt_from_mask,
    prompt_from_truth,
    read_rough_mask,
)

__all__ = [
    "GIVEN",
    "MAX_CLICKS",
    "NOC_TARGETS",
    "Clock",
    "ImageSettings",
    "Item",
    "LeftOut",
    "evaluate_images",
    "read_item",
]

# The usual targets of IoU for the number of clicks, in percent, and the usual limit.
NOC_TARGETS = (85, 90)
MAX_CLICKS = 20
# The kind of mask that a rough mask given as a prompt is.
GIVEN = "given"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """How to evaluate.

    Attributes:
      prompts: kinds of prompts: "box", "points-N", "clicks", "masks:FOLDER".
      seed: of the random points.
      limit: evaluate only the first so many items of each set; all if None.
    """

    prompts: tuple[str, ...] = ("box",)
    seed: int = 0
    limit: int | None = None

    def __post_init__(self):
        if not self.prompts:
            raise ValueError("prompts must name at least one kind of prompt")
        for kind in self.prompts:
            point_count(kind)
            folder = folder_of_masks(kind)
            if folder is not None and not folder.is_dir():
                raise ValueError(f"the prompt {kind} must name a folder of masks; there is no folder {folder}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")


@dataclasses.dataclass(frozen=True)
class Item:
    """One object in one photo.

    Attributes:
      benchmark: the set that it is of.
      index: its place there.
      photo: the photo.
      truth: the object's mask.
      rough: its rough masks, by the kinds of prompts that they are.
    """

    benchmark: Benchmark
    index: int
    photo: UInt8[np.ndarray, "h w 3"]
    truth: Bool[np.ndarray, "h w"]
    rough: dict[str, Bool[np.ndarray, "h w"]]

    @property
    def name(self) -> str:
        return self.benchmark.source.name_of(self.index)

    def prompt(self, kind: str, seed: int) -> Prompt | None:
        """Its prompt of a kind other than clicks; None if that is an empty mask."""
        if kind in self.rough:
            return prompt_from_mask(self.rough[kind])
        return prompt_from_truth(kind, self.truth, self.name, seed)


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """An item that cannot be evaluated, and why.

    Attributes:
      benchmark: the set that it is of.
      name: its own.
      reason: in words.
      unread: whether a file is missing or damaged; else there is nothing to score.
    """

    benchmark: str
    name: str
    reason: str
    unread: bool = False


class Clock:
    """How many seconds each part of a run took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)

    def time(self, part: str, call: Callable[..., T], *args: Any) -> T:
        """The result of the call, its time added to that of the part."""
        start = time.perf_counter()
        try:
            return call(*args)
        finally:
            self.seconds[part] += time.perf_counter() - start

    def metrics_share(self) -> float:
        """The metrics' share of the time of model and metrics."""
        return self.seconds["metrics"] / max(self.seconds["metrics"] + self.seconds["model"], 1e-9)


def evaluate_images(
    segmenter: Segmenter, benchmarks: Sequence[Benchmark], settings: ImageSettings, run: RunFolder, clock: Clock
) -> list[LeftOut]:
    """Evaluates every item of every set that `run` has no record of, and adds the records.

    Consecutive items of one photo share its encoding. A record has the IoU and Boundary IoU of each kind of prompt and
    mask (of rough masks those of the mask `GIVEN` first), or, of clicks, the IoU after each.

    Returns:
      The items that could not be evaluated: those that cannot be read, and those whose truth is empty, of which no
      prompt can be drawn. They are tried again when the run goes on.
    """
    done = {(record["benchmark"], record["index"]) for record in run.records}
    left_out: list[LeftOut] = []
    for benchmark in benchmarks:
        count = min(len(benchmark.source), settings.limit or len(benchmark.source))
        indices = [index for index in range(count) if (benchmark.name, index) not in done]
        items = _read(benchmark, indices, settings.prompts, left_out)
        with tqdm(total=count, initial=count - len(indices), desc=benchmark.name, unit="item") as progress:
            for photos in _ahead(_batches(items, segmenter.batch_size)):
                records = _evaluate(segmenter, photos, settings, clock)
                run.append(records)
                progress.update(len(records))
    return left_out


def read_item(benchmark: Benchmark, index: int, prompts: Sequence[str]) -> Item:
    """An item, with the rough masks that are among its prompts.

    Raises:
      ValueError: naming the file, if one is missing or cannot be read.
    """
    sample = benchmark.source[index]
    truth = truth_of(sample["mask"])
    name, size = benchmark.source.name_of(index), (truth.shape[0], truth.shape[1])
    folders = {kind: folder for kind in prompts if (folder := folder_of_masks(kind)) is not None}
    rough = {kind: read_rough_mask(folder, name, size) for kind, folder in folders.items()}
    return Item(benchmark, index, sample["image"], truth, rough)


def _read(
    benchmark: Benchmark, indices: Sequence[int], prompts: Sequence[str], left_out: list[LeftOut]
) -> Iterator[Item]:
    for index in indices:
        name = benchmark.source.name_of(index)
        try:
            item = read_item(benchmark, index, prompts)
        except ValueError as error:
            left_out.append(LeftOut(benchmark.name, name, str(error), unread=not isinstance(error, EmptyMaskError)))
            continue
        if item.truth.any():
            yield item
        else:
            left_out.append(LeftOut(benchmark.name, name, "the truth is empty"))


def _batches(items: Iterator[Item], size: int) -> Iterator[list[list[Item]]]:
    """Batches of photos, each a list of its consecutive items."""
    photos: list[list[Item]] = []
    for item in items:
        if photos and np.array_equal(photos[-1][0].photo, item.photo):
            photos[-1].append(item)
            continue
        if len(photos) == size:
            yield photos
            photos = []
        photos.append([item])
    if photos:
        yield photos


def _ahead(values: Iterator[T]) -> Iterator[T]:
    """The same, each read while the one before is worked on."""
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(next, values, None)
        while (value := pending.result()) is not None:
            pending = thread.submit(next, values, None)
            yield value


def _evaluate(
    segmenter: Segmenter, photos: Sequence[Sequence[Item]], settings: ImageSettings, clock: Clock
) -> list[Record]:
    encoded = clock.time("model", segmenter.encode, [items[0].photo for items in photos])
    records = []
    for turn in range(max(map(len, photos))):
        row = [items[turn] if turn < len(items) else None for items in photos]
        results: list[list[Record]] = [[] for _ in row]
        for prompt in settings.prompts:
            for item, found in zip(row, results, strict=True):
                if item is not None and prompt in item.rough:
                    found.append({"prompt": prompt, "mask": GIVEN, **_scores(item.rough[prompt], item.truth, clock)})
            for kind in segmenter.kinds:
                if prompt == CLICKS:
                    scores = _click(segmenter, encoded, row, kind, clock)
                else:
                    scores = _prompt_once(segmenter, encoded, row, kind, prompt, settings.seed, clock)
                for item, found, score in zip(row, results, scores, strict=True):
                    if item is not None:
                        found.append({"prompt": prompt, "mask": kind, **score})
        records += [_record(item, found) for item, found in zip(row, results, strict=True) if item is not None]
    return records


def _record(item: Item, results: list[Record]) -> Record:
    height, width = item.truth.shape
    return {
        "benchmark": item.benchmark.name,
        "index": item.index,
        "name": item.name,
        "group": item.benchmark.group_of(item.index),
        "height": height,
        "width": width,
        "results": results,
    }


def _prompt_once(
    segmenter: Segmenter, encoded: Any, row: Sequence[Item | None], kind: str, prompt: str, seed: int, clock: Clock
) -> list[Record]:
    prompts = [None if item is None else item.prompt(prompt, seed) for item in row]
    answers = clock.time("model", segmenter.segment, encoded, prompts, kind)
    scores: list[Record] = []
    for item, answer in zip(row, answers, strict=True):
        if item is None:
            scores.append({})
            continue
        mask = np.zeros_like(item.truth) if answer is None else answer.mask
        scores.append(_scores(mask, item.truth, clock))
    return scores


def _scores(mask: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"], clock: Clock) -> Record:
    return {
        "iou": clock.time("metrics", iou, mask, truth),
        "boundary_iou": clock.time("metrics", boundary_iou, mask, truth),
    }


def _click(segmenter: Segmenter, encoded: Any, row: Sequence[Item | None], kind: str, clock: Clock) -> list[Record]:
    """Clicks on every object until its mask is good enough; each click is given the mask of those before."""
    ious: list[list[float]] = [[] for _ in row]
    clicks: list[tuple[Click, ...]] = [() for _ in row]
    answers: list[Answer | None] = [None for _ in row]
    goal = max(NOC_TARGETS) / 100
    for _ in range(MAX_CLICKS):
        active = [item is not None and max(found, default=0.0) < goal for item, found in zip(row, ious, strict=True)]
        if not any(active):
            break
        for i, item in enumerate(row):
            if active[i] and item is not None:
                before = answers[i]
                mask = np.zeros_like(item.truth) if before is None else before.mask
                clicks[i] += (clock.time("metrics", next_click, mask, item.truth, clicks[i]),)
        prompts = [
            _next_prompt(made, answer) if is_active else None
            for made, answer, is_active in zip(clicks, answers, active, strict=True)
        ]
        for i, answer in enumerate(clock.time("model", segmenter.segment, encoded, prompts, kind)):
            item = row[i]
            if answer is not None and item is not None:
                answers[i] = answer
                ious[i].append(clock.time("metrics", iou, answer.mask, item.truth))
    return [
        {"ious": found, **{f"noc{t}": number_of_clicks(found, t / 100, MAX_CLICKS) for t in NOC_TARGETS}}
        for found in ious
    ]


def _next_prompt(clicks: tuple[Click, ...], before: Answer | None) -> Prompt:
    points = tuple(click.point for click in clicks)
    return Prompt(points=points) if before is None else Prompt(points=points, logits=before.logits, carry=before.carry)
