"""Tracking speed: beside the official predictor, and its cost by frame number, number of objects and clips.

    python benchmarks/video.py beside --frames 16         seconds a frame of both predictors, in turns on one clip
    python benchmarks/video.py steps --objects 1 2 4      encoder, step by number of objects, clips in a batch
    python benchmarks/video.py policies --rounds 5        seconds a frame of each memory policy beside SAM 2's, in turns
    python benchmarks/video.py live --frames 5000         step time and memory over a long iterator
    python benchmarks/video.py past --frames 1000         step time and memory over a stored clip with a refiner
    python benchmarks/video.py together --batch 4         clips of many lengths as one batch beside one by one
    python benchmarks/video.py streams --streams 4        live streams stepped together beside one by one

Weights are random, which makes no difference to speed. `beside` needs the official package.
"""

import contextlib
import dataclasses
import gc
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tyro.extras import SubcommandApp

from sam2refiner_jax import SAM2VideoPredictor, build_model, load_model
from sam2refiner_jax.video import clip_batch
from sam2refiner_jax.video.memory_bank import MemoryBank, ObjectFrames
from sam2refiner_jax.video.policies import MEMORY_POLICIES, MemoryPolicy, memory_policy
from sam2refiner_jax.video.tracking import encode_frames, track_frame

app = SubcommandApp()


def frames_of(clip: Path | None, count: int) -> list[np.ndarray]:
    """The first frames of a folder of JPEGs, over again if there are too few; noise without a folder."""
    if clip is None:
        rng = np.random.default_rng(0)
        return [rng.integers(0, 255, (480, 854, 3), np.uint8) for _ in range(min(count, 8))]
    paths = sorted(clip.glob("*.jpg"), key=lambda p: int(p.stem))[:count]
    return [np.asarray(Image.open(p).convert("RGB")) for p in paths]


def report(**figures: object) -> None:
    print(json.dumps({"device": jax.devices()[0].device_kind, **figures}), flush=True)


def seconds_between(results: Iterator) -> Iterator[float]:
    while True:
        start = time.perf_counter()
        if next(results, None) is None:
            return
        yield time.perf_counter() - start


@app.command
def beside(clip: Path, name: str = "sam2.1_hiera_t", frames: int = 16, objects: int = 1) -> None:
    """Seconds a frame of the official predictor and of ours, turn by turn on one folder of JPEGs.

    Args:
      clip: A folder of JPEGs.
      name: The model.
      frames: Frames to track; both are steady from the seventeenth on, when all memories are full.
      objects: Objects to track.
    """
    import torch
    from sam2.build_sam import build_sam2_video_predictor

    version = name.split("_")[0]
    official = build_sam2_video_predictor(f"configs/{version}/{name}.yaml", device="cpu")
    official.fill_hole_area = 0
    ours = SAM2VideoPredictor(build_model(name))
    runs = []
    for predictor in (official, ours):
        state = predictor.init_state(str(clip))
        for i in range(objects):
            predictor.add_new_points_or_box(state, 0, i, box=np.float32([50 + 20 * i, 60, 300 + 20 * i, 400]))
        runs.append(seconds_between(predictor.propagate_in_video(state, max_frame_num_to_track=frames)))
    times = np.array(list(zip(*runs, strict=True)))
    for i, (theirs, mine) in enumerate(times):
        report(frame=i, official=round(float(theirs), 3), ours=round(float(mine), 3))
    steady = np.median(times[min(8, len(times) - 1) :], axis=0)
    report(
        steady_official=round(float(steady[0]), 3),
        steady_ours=round(float(steady[1]), 3),
        ratio=round(float(steady[1] / steady[0]), 3),
        threads=torch.get_num_threads(),
    )


@app.command
def steps(
    name: str = "sam2.1_hiera_t",
    image_size: int = 1024,
    objects: tuple[int, ...] = (1, 2, 4),
    repeats: int = 5,
) -> None:
    """Seconds of the encoder and of the step by number of objects, all memories full; and of two clips in a batch.

    Args:
      name: The model.
      image_size: Side of the input in pixels.
      objects: Numbers of objects.
      repeats: Runs of each, of which the median counts.
    """
    model = build_model(name, image_size=image_size)
    encode = jax.jit(encode_frames)
    images = np.random.default_rng(0).integers(0, 255, (2, image_size, image_size, 3), np.uint8)

    def median_seconds(run) -> float:
        jax.block_until_ready(run())
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(run())
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    def step(features, image):
        rows = len(image)
        where = ObjectFrames(
            np.int32(image), np.full(rows, 30, np.int32), np.full(rows, 100, np.int32), np.zeros(rows, bool)
        )
        bank = full_bank(model.config, rows)
        return lambda: track_frame(model, jax.device_put(bank), features, where, np.ones(rows, bool))

    encoder = median_seconds(lambda: encode(model, images[:1]))
    features = encode(model, images[:1])
    report(encoder=round(encoder, 3))
    single = median_seconds(step(features, [0]))
    for count in objects:
        seconds = median_seconds(step(features, [0] * count))
        linear = encoder + count * single
        report(objects=count, step=round(seconds, 3), frame_over_linear=round((encoder + seconds) / linear, 3))
    both = median_seconds(lambda: encode(model, images)) + median_seconds(step(encode(model, images), [0, 1]))
    report(two_clips_in_a_batch=round(both, 3), in_turn=round(2 * (encoder + single), 3))


@app.command
def policies(
    name: str = "sam2.1_hiera_t",
    image_size: int = 1024,
    memory: tuple[str, ...] = tuple(MEMORY_POLICIES),
    rounds: int = 5,
) -> None:
    """Seconds a frame, encoder included, of memory policies, all memories full, one after the other in every round.

    A policy that looks at masks only now and then is timed on a frame on which it does.

    Args:
      name: The model.
      image_size: Side of the input in pixels.
      memory: The policies; each is compared with the first.
      rounds: Frames of each, of whose times the median counts.
    """
    model = build_model(name, image_size=image_size)
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.set_value(jnp.ones(1))  # fresh weights see no object
    encode = jax.jit(encode_frames)
    image = np.random.default_rng(0).integers(0, 255, (1, image_size, image_size, 3), np.uint8)
    one = np.ones(1, np.int32)
    where = ObjectFrames(0 * one, 30 * one, 100 * one, np.zeros(1, bool))
    encoder, times = [], []

    def seconds(run) -> float:
        start = time.perf_counter()
        jax.block_until_ready(run())
        return time.perf_counter() - start

    features = encode(model, image)
    banks = [full_bank(model.config, 1, always_awake(memory_policy(each))) for each in memory]
    for turn in range(rounds + 1):
        encoder.append(seconds(lambda: encode(model, image)))
        times.append([])
        for bank in map(jax.device_put, banks):
            times[-1].append(seconds(lambda bank=bank: track_frame(model, bank, features, where, np.ones(1, bool))))
        if turn == 0:  # compiled
            encoder.clear()
            times.clear()
    steps, whole = np.array(times), float(np.median(encoder))
    report(encoder=round(whole, 3))
    frame = whole + np.median(steps, axis=0)
    for i, each in enumerate(memory):
        report(
            memory=each,
            step=round(float(frame[i]) - whole, 3),
            frame=round(float(frame[i]), 3),
            ratio=round(float(frame[i] / frame[0]), 3),
            step_ratios=[round(float(ratio), 2) for ratio in steps[:, i] / steps[:, 0]],
        )


def always_awake(policy: MemoryPolicy) -> MemoryPolicy:
    """The policy with thresholds that fresh weights reach, so that what it does rarely is timed too."""
    wakeful = {"quality": {"iou_threshold": -1.0, "area_tolerance": 1e9}, "motion": {"stable_frames": 0}}
    return dataclasses.replace(policy, **wakeful.get(policy.kind, {}))


def full_bank(config, rows: int, policy: MemoryPolicy | None = None) -> MemoryBank:
    """A bank with a memory in every slot when frame 30 is tracked."""
    bank = MemoryBank.empty(config, rows, policy=policy)
    frames = {
        "prompted": range(1),
        "prompted_pointers": range(1),
        "recent": range(24, 30),
        "recent_pointers": range(15, 30),
    }
    rng = np.random.default_rng(0)
    for name, of in frames.items():
        slots = getattr(bank, name)
        slots.frames[:] = of
        slots.values[:] = rng.normal(size=slots.values.shape)
    bank.prompts.boxes[:] = 100  # a box in the middle of nowhere special
    for leaf in jax.tree.leaves(bank.state):
        if not np.isfinite(leaf).all():  # paths all begun, areas all known
            leaf[:] = 1
    return bank


@app.command
def live(
    name: str = "sam2.1_hiera_t",
    refiner: str | None = None,
    image_size: int = 1024,
    frames: int = 5000,
    objects: int = 1,
    every: int = 500,
) -> None:
    """Step time and memory over a long iterator of frames.

    Args:
      name: The model.
      refiner: The kind of its refiner, if it is to have one.
      image_size: Side of the input in pixels.
      frames: How many.
      objects: Objects to track.
      every: Frames between two reports.
    """
    stored = frames_of(None, 8)
    predictor = SAM2VideoPredictor(build_model(name, refiner=refiner, image_size=image_size))
    state = predictor.init_state(stored[i % len(stored)] for i in range(frames))
    for i in range(1, objects + 1):
        predictor.add_new_points_or_box(state, 0, i, box=np.float32([50 + 20 * i, 60, 300 + 20 * i, 400]))
    times = []
    for i, seconds in enumerate(seconds_between(predictor.propagate_in_video(state))):
        times.append(seconds)
        if i % every == every - 1 or i in (10, 100):
            gc.collect()
            report(
                frame=i,
                seconds=round(float(np.median(times[-every:])), 4),
                buffers_mb=round(sum(x.nbytes for x in jax.live_arrays()) / 2**20, 3),
                host_mb=resident_mb(),
                remembered=len(state.objects[1].tracked),
            )


@app.command
def past(
    name: str = "sam2_nano",
    refiner: str = "sam2refiner",
    image_size: int = 256,
    frames: int = 1000,
    objects: int = 4,
    every: int = 200,
    in_memory: bool = False,
) -> None:
    """Step time, memory and the size of the temporary file over a stored clip all of whose results are kept.

    Args:
      name: The model.
      refiner: The kind of its refiner.
      image_size: Side of the input in pixels.
      frames: How many.
      objects: Objects to track.
      every: Frames between two reports.
      in_memory: Keep all results in memory instead, as before they went to a file.
    """
    stored = frames_of(None, 8)
    predictor = SAM2VideoPredictor(build_model(name, refiner=refiner, image_size=image_size))
    state = predictor.init_state([stored[i % len(stored)] for i in range(frames)])
    if in_memory:
        state.recent = None
    for i in range(objects):
        predictor.add_new_points_or_box(state, 0, i, box=np.float32([50 + 20 * i, 60, 300 + 20 * i, 400]))
    times = []
    for i, seconds in enumerate(seconds_between(predictor.propagate_in_video(state))):
        times.append(seconds)
        if i % every == every - 1 or i in (10, 50):
            gc.collect()
            report(
                frame=i,
                seconds=round(float(np.median(times[-every:])), 4),
                slowest=round(max(times[-every:]), 4),
                host_mb=resident_mb(),
                file_mb=round(state.file.size / 2**20, 1),
            )


@app.command
def together(
    checkpoint: str = "nano",
    clips: Path | None = None,
    image_size: int = 128,
    lengths: tuple[int, ...] = (10, 20, 30, 45, 60, 80, 100, 130, 160, 200),
    objects: tuple[int, ...] = (1, 2, 1, 3),
    batch: int = 4,
    devices: int = 1,
    refine: bool = False,
    rounds: int = 3,
) -> None:
    """Clips of many lengths and objects as one batch, and one by one, in turns: seconds, masks, compilations.

    Compilations are those of the first run of each; the runs that are timed have none.

    Args:
      checkpoint: The model, as `load_model` takes it.
      clips: A folder of folders of JPEGs, whose frames go forwards and backwards where a clip is longer; noise, which
        moves, without one.
      image_size: Side of the input in pixels.
      lengths: Frames of each clip.
      objects: Objects of the clips, in turns.
      batch: Clips at a time.
      devices: How many of the devices share the batch.
      refine: With the model's refiner.
      rounds: Runs of each, of which the median counts.
    """
    predictor = SAM2VideoPredictor(load_model(checkpoint, image_size=image_size), refine=refine)
    sources = [clip_of(clips, i, length) for i, length in enumerate(lengths)]
    mesh = jax.make_mesh((devices,), ("clips",)) if devices > 1 else None

    def opened():
        states = predictor.init_states(sources, history=16)
        for i, state in enumerate(states):
            height, width = state.video_height, state.video_width
            for number in range(objects[i % len(objects)]):
                box = np.float32([0.2 + 0.1 * number, 0.2, 0.6 + 0.1 * number, 0.8]) * [width, height, width, height]
                predictor.add_new_points_or_box(state, 0, number, box=box)
            predictor.propagate_in_video_preflight(state)
        return states

    def one_by_one(states):
        return [[masks > 0 for *_, masks in predictor.propagate_in_video(state)] for state in states]

    def as_one_batch(states):
        found = {id(state): [] for state in states}
        with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
            for state, *_, masks in predictor.propagate_together(states, batch=batch):
                found[id(state)].append(masks > 0)
        return list(found.values())

    programs = track_frame, clip_batch._encode_frames, clip_batch._track_on_devices, clip_batch._encode_on_devices
    times, results, compiled, steps = [], [], [], []
    start_step = clip_batch.ClipBatch.start
    clip_batch.ClipBatch.start = lambda *arguments: steps.append(1) or start_step(*arguments)
    for turn in range(rounds + 2):  # the second compiles again what the first of the other forgot
        times.append([])
        for run in (one_by_one, as_one_batch):
            states = opened()
            if turn == 0:  # each compiles what it needs
                jax.clear_caches()
            start = time.perf_counter()
            found = run(states)
            times[-1].append(time.perf_counter() - start)
            if turn == 0:
                results.append(found)
                compiled.append(sum(program._cache_size() for program in programs))
    alone, batched = (np.concatenate([np.ravel(masks) for clip in found for masks in clip]) for found in results)
    first, median = times[0], np.median(times[2:], axis=0)
    report(
        clips=len(lengths),
        frames=sum(lengths),
        batch=batch,
        devices=devices,
        steps=len(steps) // (rounds + 2),
        equal_pixels=float((alone == batched).mean()),
        equal_clips=sum(all(map(np.array_equal, a, b)) for a, b in zip(*results, strict=True)),
        mask_share=round(float(alone.mean()), 4),
        seconds_one_by_one=round(float(median[0]), 2),
        seconds_together=round(float(median[1]), 2),
        ratio=round(float(median[1] / median[0]), 3),
        ratios=[round(b / a, 3) for a, b in times[2:]],
        ratio_with_compiling=round(first[1] / first[0], 3),
        compiled_one_by_one=compiled[0],
        compiled_together=compiled[1],
    )


def clip_of(clips: Path | None, number: int, length: int) -> list[np.ndarray]:
    """A clip of so many frames, of a folder of the folder's or of noise that moves."""
    if clips is None:
        noise = np.random.default_rng(number).integers(0, 255, (240, 427, 3), np.uint8)
        return [np.roll(noise, (i, 2 * i), axis=(0, 1)) for i in range(length)]
    folders = sorted(path for path in clips.iterdir() if path.is_dir())
    stored = frames_of(folders[number % len(folders)], length)
    there_and_back = [*range(len(stored)), *range(len(stored) - 2, 0, -1)] or [0]
    return [stored[there_and_back[i % len(there_and_back)]] for i in range(length)]


@app.command
def streams(
    checkpoint: str = "nano", image_size: int = 128, streams: int = 4, objects: int = 1, frames: int = 100
) -> None:
    """Seconds a frame of live streams that are stepped together, and of the same streams one after the other.

    Args:
      checkpoint: The model, as `load_model` takes it.
      image_size: Side of the input in pixels.
      streams: How many.
      objects: Objects of each.
      frames: How many steps are timed.
    """
    predictor = SAM2VideoPredictor(load_model(checkpoint, image_size=image_size))
    sources = {i: clip_of(None, i, 16) for i in range(streams)}

    def opened(names):
        found = predictor.open_streams(streams=len(names), objects=objects * len(names))
        for name in names:
            state = found.add(name, sources[name][0])
            for number in range(objects):
                predictor.add_new_points_or_box(state, 0, number, box=np.float32([50, 60, 300, 200]) + 10 * number)
        return found

    alone, all_of_them = [opened([name]) for name in sources], opened(sources)
    times = []
    for turn in range(frames + 1):
        index = 1 + turn % 15
        start = time.perf_counter()
        for each in alone:
            each.step({name: sources[name][index] for name in each})
        middle = time.perf_counter()
        all_of_them.step({name: sources[name][index] for name in sources})
        times.append((middle - start, time.perf_counter() - middle))
    one_by_one, as_one = np.median(times[1:], axis=0)
    report(
        streams=streams,
        objects=objects,
        step_one_by_one=round(float(one_by_one), 4),
        step_together=round(float(as_one), 4),
        ratio=round(float(as_one / one_by_one), 3),
    )


def resident_mb() -> float:
    """Memory of this process; where /proc is missing, the most it ever had."""
    status = Path("/proc/self/statm")
    if status.exists():
        return round(int(status.read_text().split()[1]) * resource.getpagesize() / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


if __name__ == "__main__":
    app.cli()
