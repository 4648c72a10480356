"""From sources to batches: shuffled, mixed, augmented, shared by processes, and resumed anywhere."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, UInt8

from ...data.clip_sources import Clips, ClipSample
from ...data.masks import OBJECT
from ...data.sources import Sample, Source
from ..config import AugmentConfig, DataConfig
from .augment import augment, augment_clip
from .paste import Paste

__all__ = ["BatchIterator", "MixedBatches", "make_batches"]

# Batches that are read ahead.
READ_AHEAD = 2


def make_batches(
    sources: Sequence[tuple[Source, float]],
    config: DataConfig,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> "BatchIterator | MixedBatches":
    """This process's part of an endless stream of batches, of photos or, with `config.frames`, of clips.

    Sources are mixed by weight in a fixed pattern. Each is shuffled anew for every pass through it. What a sample
    becomes depends on the seed and its place in the stream alone, so that the processes' parts together, in order, are
    the same global batches however many processes and workers there are. A batch is of clips alone or of photos alone,
    which come as clips of one frame.

    Args:
      sources: each with its weight, which need not add up to anything; `open_mixture(config.sources)` opens them.
      config: how many objects an image has, what happens to it at random, and by how many workers.
      image_size: side of the images and masks in pixels.
      batch_size: images or clips in a global batch, of all processes together; of photos among clips there are
        `config.photos_per_clip` times as many.
      seed: from 0 to 2**32 - 1.
      process_index: this process's number, from 0.
      process_count: the processes that share each batch.

    Raises:
      ValueError: if there is no source, one is empty, a weight is not positive, a number is out of range, or the
        processes do not divide the batch.
    """
    _check_sources(sources)
    of_clips = [isinstance(source, Clips) for source, _ in sources]
    if config.frames and any(of_clips) and not all(of_clips):
        kinds = [
            [pair for pair, is_clip in zip(sources, of_clips, strict=True) if is_clip == kind] for kind in (True, False)
        ]
        shares = [sum(weight for _, weight in kind) for kind in kinds]
        streams = [
            make_batches(
                kind,
                config,
                image_size=image_size,
                batch_size=size,
                seed=seed,
                process_index=process_index,
                process_count=process_count,
            )
            for kind, size in zip(kinds, (batch_size, batch_size * config.photos_per_clip), strict=True)
        ]
        return MixedBatches(streams[0], streams[1], shares[1] / sum(shares))
    if image_size < 1 or batch_size < 1:
        raise ValueError(f"image_size and batch_size must be positive, got {image_size} and {batch_size}")
    if not 0 <= process_index < process_count or batch_size % process_count:
        raise ValueError(
            f"batch_size must be a multiple of process_count, and process_index below it; "
            f"got {batch_size}, {process_count} and {process_index}"
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    seeds = [int(word) for word in np.random.SeedSequence(seed).generate_state(len(sources) + 2)]
    *seeds, augment_seed, paste_seed = seeds
    if config.frames:
        return _clip_batches(
            sources, config, image_size, batch_size // process_count, seeds, augment_seed, process_index, process_count
        )
    streams = [
        grain.MapDataset.source(source if config.objects == 1 else _Several(source, config.objects))
        .shuffle(seed=one)
        .repeat()
        for (source, _), one in zip(sources, seeds, strict=True)
    ]
    mixed = grain.MapDataset.mix(streams, [weight for _, weight in sources]) if sources[1:] else streams[0]
    if config.paste:
        mixed = mixed.random_map(Paste(mixed, config.paste), seed=paste_seed)
    samples = mixed.random_map(_Augment(image_size, config), seed=augment_seed)
    local = batch_size // process_count
    return BatchIterator(_Share(samples, local, process_index, process_count), local, config.workers)


def _clip_batches(
    sources: Sequence[tuple[Source, float]],
    config: DataConfig,
    size: int,
    local: int,
    seeds: Sequence[int],
    read_seed: int,
    process_index: int,
    process_count: int,
) -> "BatchIterator":
    """Batches of clips, or of photos as clips of one frame."""
    streams = [
        grain.MapDataset.source(_Numbered(number, source)).shuffle(seed=one).repeat()
        for number, ((source, _), one) in enumerate(zip(sources, seeds, strict=True))
    ]
    mixed = grain.MapDataset.mix(streams, [weight for _, weight in sources]) if sources[1:] else streams[0]
    samples = mixed.random_map(_ReadClip([source for source, _ in sources], size, config), seed=read_seed)
    return BatchIterator(_Share(samples, local, process_index, process_count), local, config.workers)


class BatchIterator(grain.DatasetIterator):
    """Batches of a stream of samples: {"image": uint8 (b, s, s, 3), "mask": uint8 (b, s, s)}, without end.

    Masks of several objects are (b, s, s, objects). Clips are {"image": uint8 (b, frames, s, s, 3), "mask": uint8
    (b, frames, s, s, objects), "visible": bool (b, frames, objects)}.

    Its state is the number of the next batch, which means the same for any number of processes and workers. A sample
    that cannot be read raises the ValueError of its source, which names the file: none is skipped. Close it to end its
    workers.

    Args:
      samples: this process's part of the stream, one sample an element.
      batch_size: samples in each of its batches.
      workers: processes that make samples ahead; 0 for threads of this one.
    """

    def __init__(self, samples: grain.MapDataset, batch_size: int, workers: int):
        super().__init__()
        self._samples = samples
        self._batch_size = batch_size
        self._workers = workers
        self._next_batch = 0
        self._batches = self._batches_from(0)

    def _batches_from(self, start: int) -> grain.DatasetIterator:
        samples = self._samples.slice(slice(start * self._batch_size, None))
        ahead = READ_AHEAD * self._batch_size
        if self._workers:
            if not flags.FLAGS.is_parsed():  # Grain asks for flags of its own, which nobody else has parsed.
                flags.FLAGS.mark_as_parsed()
            each = -(-ahead // self._workers)
            dataset = samples.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)).mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=each),
                worker_init_fn=_end_with_parent,
            )
        else:
            threads = os.cpu_count() or 1
            dataset = samples.to_iter_dataset(grain.ReadOptions(threads, max(ahead, threads)))
        return iter(dataset.batch(self._batch_size))

    def __next__(self) -> dict[str, UInt8[np.ndarray, "b ..."] | Bool[np.ndarray, "b frames objects"]]:
        with _deaf_workers() if self._workers else contextlib.nullcontext():  # the first batch starts them
            batch = next(self._batches)
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"next_batch": self._next_batch}

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.close()
        self._next_batch = state["next_batch"]
        self._batches = self._batches_from(self._next_batch)

    def start_prefetch(self) -> None:
        self._batches.start_prefetch()

    def close(self) -> None:
        super().close()
        self._batches.close()


class MixedBatches(grain.DatasetIterator):
    """Batches of clips and batches of photos, in a fixed pattern.

    Its state, as that of each, is the number of the next batch.

    Args:
      clips: batches of clips.
      photos: batches of photos.
      share: of the batches that are of photos, more than 0 and less than 1.
    """

    def __init__(self, clips: "BatchIterator | MixedBatches", photos: "BatchIterator | MixedBatches", share: float):
        super().__init__()
        self._streams = {False: clips, True: photos}
        self._share = share
        self._next_batch = 0

    def _photos_before(self, number: int) -> int:
        return int(number * self._share)

    def __next__(self) -> dict[str, Any]:
        is_photos = self._photos_before(self._next_batch + 1) > self._photos_before(self._next_batch)
        batch = next(self._streams[is_photos])
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"next_batch": self._next_batch}

    def set_state(self, state: dict[str, Any]) -> None:
        self._next_batch = state["next_batch"]
        photos = self._photos_before(self._next_batch)
        self._streams[True].set_state({"next_batch": photos})
        self._streams[False].set_state({"next_batch": self._next_batch - photos})

    def start_prefetch(self) -> None:
        for stream in self._streams.values():
            stream.start_prefetch()

    def close(self) -> None:
        super().close()
        for stream in self._streams.values():
            stream.close()


def _end_with_parent(index: int, count: int) -> None:
    """Ends a worker when the process that started it has ended, however that came to be.

    Linux's own signal for this (PR_SET_PDEATHSIG) tells of the thread that started the worker, which may end early.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _deaf_workers() -> Iterator[None]:
    """Workers started meanwhile never hear of ctrl-C, which reaches all processes but is for the first to answer."""
    resource_tracker.ensure_running()  # which otherwise is started with the first worker, and then unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Several:
    """A source whose samples have so many objects each."""

    def __init__(self, source: Source, count: int):
        self._source = source
        self._count = count

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        several = getattr(self._source, "several", None)
        sample = self._source[index] if several is None else several(index, self._count)
        masks = sample["mask"].reshape(*sample["mask"].shape[:2], -1)
        return {"image": sample["image"], "mask": masks[..., np.arange(self._count) % masks.shape[2]]}


class _Numbered:
    """The places of a source's samples, with the source's number: they are read where there is randomness."""

    def __init__(self, number: int, source: Source):
        self._number = number
        self._count = len(source)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self._number, int(index)


class _ReadClip:
    """Reads a clip, or a photo as one of one frame, and augments it."""

    def __init__(self, sources: list[Source], size: int, config: DataConfig):
        self._sources = sources
        self._size = size
        self._config = config

    def __call__(self, place: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        source, objects = self._sources[place[0]], self._config.objects
        if isinstance(source, Clips):
            reverse = rng.random() < self._config.reverse
            clip = source.clip(place[1], self._config.frames, objects, rng, reverse=reverse)
        else:
            several = getattr(source, "several", None)
            sample = source[place[1]] if several is None else several(place[1], objects)
            masks = sample["mask"].reshape(*sample["mask"].shape[:2], -1)[..., :objects]
            clip = ClipSample(image=sample["image"][None], mask=masks[None])
        clip = augment_clip(clip, self._size, self._config, rng)
        empty = objects - clip["mask"].shape[-1]
        mask = np.pad(clip["mask"], [(0, 0)] * 3 + [(0, empty)])
        return {"image": clip["image"], "mask": mask, "visible": (mask >= OBJECT).any(axis=(1, 2))}


class _Augment:
    """`augment`, its sizes bound, as grain calls it in workers too."""

    def __init__(self, size: int, config: AugmentConfig):
        self._size = size
        self._config = config

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return augment(sample, self._size, self._config, rng)


class _Share(grain.MapDataset):
    """One process's part of a stream: its `count` samples of every global batch."""

    def __init__(self, parent: grain.MapDataset, count: int, process_index: int, process_count: int):
        super().__init__(parent)
        self._count = count
        self._process_index = process_index
        self._process_count = process_count

    def __len__(self) -> int:
        return len(self._parent) // self._process_count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        batch, place = divmod(index, self._count)
        return self._parent[(batch * self._process_count + self._process_index) * self._count + place]


def _check_sources(sources: Sequence[tuple[Source, float]]) -> None:
    if not sources:
        raise ValueError("sources must hold at least one source, got none")
    for number, (source, weight) in enumerate(sources):
        if len(source) == 0:
            raise ValueError(f"every source must hold at least one sample; source {number} holds none")
        if not weight > 0:
            raise ValueError(f"weights must be positive, got {weight} for source {number}")
