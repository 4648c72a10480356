"""Clips to test on, and the official video predictor beside ours on the same clip."""

import functools
import gc
import pickle
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from official import build_official, ours_like, ours_of_few_blocks, randomise, relative_error
from PIL import Image

from sam2refiner_jax import SAM2, SAM2VideoPredictor

# Random weights take most objects for absent and most masks for empty or full; these do not.
OBJECT_SCORE_BIAS, SEED = 0.6, 6


def moving_frames(count: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """A disk and a square that move over a smooth background."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
    background = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    y, x = np.mgrid[:height, :width]
    frames = []
    for i in range(count):
        frame = background + rng.normal(0, 6, background.shape).astype(np.int16)
        frame[disk(i, height, width)] = (230, 60, 50)
        side = min(height, width) // 6
        left, top = int(width * 0.65), int(height * (0.1 + 0.6 * i / count))
        frame[(abs(x - left) < side) & (abs(y - top) < side)] = (30, 90, 240)
        frames.append(frame.clip(0, 255).astype(np.uint8))
    return frames


def disk(i: int, height: int, width: int) -> np.ndarray:
    """The mask of the disk in frame `i` of `moving_frames`."""
    y, x = np.mgrid[:height, :width]
    radius = min(height, width) / 5
    return (x - width * (0.25 + 0.02 * i)) ** 2 + (y - height * 0.5) ** 2 < radius**2


def write_jpegs(folder: Path, frames: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=92)
    return folder


def write_video(path: Path, frames: list[np.ndarray], codec: str = "mpeg4", **options) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


class Float32Memories:
    """torch, but its bfloat16 is float32: so the official predictor does not round its memories."""

    def __getattr__(self, name):
        return torch.float32 if name == "bfloat16" else getattr(torch, name)


def official_and_ours_video(name: str, size: int, exact_memories: bool = False, few_blocks: bool = False):
    """Both predictors with the same random weights, for input of this size.

    With `few_blocks` trunk and memory attention are cut short.
    With `exact_memories` neither rounds memory features to bfloat16, which turns differences in the last digit into
    differences of half a percent of single numbers.
    """
    return video_pair(*official_and_our_model(name, size, few_blocks), exact_memories)


def video_pair(official, model: SAM2, exact_memories: bool):
    """An official predictor as `SideBySide` wants it, and ours with the model."""
    module = sys.modules[type(official).__module__]
    module.torch = Float32Memories() if exact_memories else torch
    module.tqdm = lambda x, **_: x
    return official, SAM2VideoPredictor(model, memory_dtype=jnp.float32 if exact_memories else jnp.bfloat16)


@functools.lru_cache(maxsize=2)
def official_and_our_model(name: str, size: int, few_blocks: bool):
    """The official predictor and our model with its weights."""
    official = randomise_predictor(build_official(name, video=True, few_blocks=few_blocks, image_size=size))
    return official, ours_of_few_blocks(official, name, size) if few_blocks else ours_like(official, image_size=size)


def randomise_predictor(official: torch.nn.Module) -> torch.nn.Module:
    """An official video predictor with random weights that see objects."""
    official.fill_hole_area = 0  # needs its CUDA extension, and is skipped with a warning without it
    randomise(official, SEED)
    with torch.no_grad():
        official.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += OBJECT_SCORE_BIAS
    return official


def held(state) -> tuple[int, int, int]:
    """Bytes of all of the device's buffers, bytes of all that the state knows of objects, and frames that it keeps."""
    gc.collect()
    buffers = sum(x.nbytes for x in jax.live_arrays())
    return buffers, len(pickle.dumps(state.objects)), len(state.frames.indices())


class SideBySide:
    """Makes the same calls to both predictors on one clip, and asserts that results are equal.

    Attributes:
      agreement: the smallest share of pixels of a mask that are equal.
      memory_error: the largest relative L2 error of a frame's memory features.
      flipped: for each prompted frame whose memory is of another mask, the number of pixels and the error. Memories of
        prompts are made of masks cut at zero, and a logit of 1e-7 may be cut to either side.
      pointer_error: likewise of an object pointer.
      shares: how much of the frame each mask covers.
      seconds: how long the official predictor and ours took for each propagated frame.
    """

    def __init__(self, official, ours, clip):
        self.official, self.ours = official, ours
        self.official_state, self.state = official.init_state(str(clip)), ours.init_state(clip)
        self.agreement, self.memory_error, self.pointer_error = 1.0, 0.0, 0.0
        self.flipped: dict[int, tuple[int, float]] = {}
        self._prompted: dict[object, set[int]] = {}
        self.shares: list[float] = []
        self.seconds: tuple[list[float], list[float]] = ([], [])

    def compare(self, reference, result):
        assert result[0] == reference[0]
        assert list(result[1]) == list(reference[1])
        assert result[2].shape == tuple(reference[2].shape)
        expected, masks = reference[2].numpy() > 0, result[2] > 0
        self.agreement = min([self.agreement, *(expected == masks).mean(axis=(1, 2, 3))])
        self.shares += list(expected.mean(axis=(1, 2, 3)))

    def call(self, method: str, *args, **kwargs):
        reference = getattr(self.official, method)(self.official_state, *args, **kwargs)
        result = getattr(self.ours, method)(self.state, *args, **kwargs)
        if method == "remove_object":
            assert list(result[0]) == list(reference[0])
            for expected, (frame, masks) in zip(reference[1], result[1], strict=True):
                self.compare((expected[0], reference[0], expected[1]), (frame, result[0], masks))
        else:
            self.compare(reference, result)

    def propagate(self, **kwargs):
        references = self.official.propagate_in_video(self.official_state, **kwargs)
        results = self.ours.propagate_in_video(self.state, **kwargs)
        for reference, result in zip(timed(references, self.seconds[0]), timed(results, self.seconds[1]), strict=True):
            self.compare(reference, result)
        self.compare_memories()

    def compare_memories(self):
        for i, (obj_id, history) in enumerate(self.state.objects.items()):
            # Those whose prompts were cleared meanwhile keep the memory of a prompt.
            prompted = self._prompted.setdefault(obj_id, set())
            prompted.update(history.prompt_frames())
            outputs = self.official_state["output_dict_per_obj"][i]
            for key, results in (
                ("cond_frame_outputs", history.prompted),
                ("non_cond_frame_outputs", history.tracked),
            ):
                assert sorted(results) == sorted(outputs[key])
                for frame, expected in outputs[key].items():
                    memory = results[frame].memory.astype(np.float32).transpose(2, 0, 1)
                    error = relative_error(memory, expected["maskmem_features"][0].float().numpy())
                    pixels = self._flipped_pixels(results[frame], expected) if frame in prompted else 0
                    if pixels:
                        self.flipped[frame] = pixels, error
                    else:
                        self.memory_error = max(self.memory_error, error)
                    error = relative_error(results[frame].pointer, expected["obj_ptr"][0].numpy())
                    self.pointer_error = max(self.pointer_error, error)

    def _flipped_pixels(self, result, expected) -> int:
        size = self.official.image_size
        masks = torch.stack([torch.from_numpy(result.mask)[None], expected["pred_masks"][0]])
        cut = torch.nn.functional.interpolate(masks, (size, size), mode="bilinear", align_corners=False) > 0
        return int((cut[0] != cut[1]).sum())


def timed(results, seconds: list[float]):
    """The results, noting how long each took."""
    while True:
        start = time.perf_counter()
        result = next(results, None)
        if result is None:
            return
        seconds.append(time.perf_counter() - start)
        yield result
