"""What `benchmarks/gpu.py` times: each function gives a row, our side and the official ones in turns."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reference"))
from flops import gflop
from gpu_report import Parity, Row
from image import PHOTO, PROMPTS, in_turns, seconds
from official import official_image_predictor
from video import full_bank
from videos import disk, moving_frames, timed, video_pair

from sam2refiner_jax import SAM2, SAM2ImagePredictor, SAM2VideoPredictor
from sam2refiner_jax.image.encoding import encode_photos
from sam2refiner_jax.image.predictor import decode_prompts
from sam2refiner_jax.image.prompts import pack_prompts, read_prompts
from sam2refiner_jax.train.loop import place
from sam2refiner_jax.train.parts import make_skeleton, starting_model
from sam2refiner_jax.train.recipes import RECIPES
from sam2refiner_jax.train.sharding import global_batch, make_mesh
from sam2refiner_jax.train.step import compile_train_step, make_train_step
from sam2refiner_jax.video.memory_bank import ObjectFrames
from sam2refiner_jax.video.tracking import advance, encode_frames

DType = Literal["float32", "bfloat16"]
# Compiling, recording a CUDA graph, and playing it once.
WARM_UP = 3
# From the seventeenth tracked frame on all memories are full.
FULL = 17


@dataclasses.dataclass(frozen=True)
class Models:
    """The same weights on all sides: ours, computing in one type, and official video predictors by their columns.

    Attributes:
      ours: the type's model.
      exact: ours in float32, by which FLOPs are counted.
      official: "official" and, if asked for, "vos_optimized"; they compute in float32 or under autocast.
      dtype: the type.
      device: "cuda" or "cpu".
      rounds: how often everything is timed.
    """

    ours: SAM2
    exact: SAM2
    official: dict[str, torch.nn.Module]
    dtype: DType
    device: str
    rounds: int

    @property
    def size(self) -> int:
        return self.ours.config.image_size


def finished(run: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A run of PyTorch's that ends when the card has done it."""

    def run_to_its_end():
        torch.compiler.cudagraph_mark_step_begin()  # results of the run before may be overwritten
        result = run(*arguments)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return result

    return run_to_its_end


def working(
    sides: dict[str, Callable[[], Any]], failures: dict[str, str], warm_up: int = WARM_UP
) -> dict[str, Callable[[], Any]]:
    """The sides that can be run, after so many runs; `failures` is told why the others cannot."""
    able = {}
    for side, run in sides.items():
        try:
            for _ in range(warm_up):
                seconds(run)
            able[side] = run
        except RuntimeError as error:  # what both frameworks raise when memory or a kernel is missing
            failures[side] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            print(f"{side} failed: {error}", file=sys.stderr)
    return able


def timed_row(what: str, dtype: DType, rounds: int, sides: dict[str, Callable[[], Any]], **more: Any) -> Row:
    """A row of the table, all sides in turns."""
    failures: dict[str, str] = {}
    able = working(sides, failures)
    return Row(what, dtype, in_turns(able, rounds), failures=failures, **more)


def peak(side: int, dtype: DType, device: str, rounds: int) -> Row:
    """One product of square matrices in each framework."""
    values = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    ours, theirs = jnp.asarray(values, dtype), torch.from_numpy(values).to(device, getattr(torch, dtype))
    product = jax.jit(functools.partial(jnp.matmul, precision="highest" if dtype == "float32" else "default"))
    sides = {"ours": lambda: product(ours, ours), "official": finished(torch.matmul, theirs, theirs)}
    what = f"product of {side} x {side} matrices, JAX and PyTorch"
    return timed_row(what, dtype, rounds, sides, gflop=2e-9 * side**3, is_peak=True)


def encoder(models: Models, batch: int) -> Row:
    images = np.random.default_rng(0).normal(size=(batch, models.size, models.size, 3)).astype(np.float32)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(models.device)
    images = jax.device_put(images)
    sides = {"ours": lambda: encode_photos(models.ours, images)}
    sides |= {side: finished(model.forward_image, pixels) for side, model in models.official.items()}
    count = gflop(encode_photos, models.exact, images)
    return timed_row(f"image encoder, batch {batch}", models.dtype, models.rounds, sides, items=batch, gflop=count)


def click(models: Models) -> Row:
    """Three masks from a click in a photo that is encoded, on the card and at stride 4."""
    size = models.size
    images = np.random.default_rng(0).normal(size=(1, size, size, 3)).astype(np.float32)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(models.device)
    prompts = read_prompts([[size / 2, size / 3]], [1], None, None, photo_size=(size, size), image_size=size)
    points = tuple(torch.from_numpy(x[:, :1]).to(models.device) for x in (prompts.points, prompts.labels))
    asked = jax.device_put((np.zeros(1, np.int32), pack_prompts([prompts], models.ours.config.mask_size)))
    photos = encode_photos(models.ours, images)
    sides = {"ours": lambda: decode_prompts(models.ours, photos, *asked)}
    sides |= {side: finished(official_click(model, pixels, points)) for side, model in models.official.items()}
    count = gflop(decode_prompts, models.exact, encode_photos(models.exact, images), *asked)
    return timed_row("click, photo encoded", models.dtype, models.rounds, sides, gflop=count)


def official_click(model: torch.nn.Module, pixels: torch.Tensor, points: tuple) -> Callable[[], Any]:
    """What the official predictors make of a click, up to where they resize the masks."""

    @functools.cache
    def features():
        *finer, stride16 = model.forward_image(pixels)["backbone_fpn"]
        return stride16 + model.no_mem_embed.reshape(1, -1, 1, 1), finer

    def run():
        embedding, finer = features()
        sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=None)
        return model.sam_mask_decoder(
            image_embeddings=embedding,
            image_pe=model.sam_prompt_encoder.get_dense_pe().clone(),
            sparse_prompt_embeddings=sparse.clone(),
            dense_prompt_embeddings=dense.clone(),
            multimask_output=True,
            repeat_image=False,
            high_res_features=finer,
        )

    return run


def photo(models: Models) -> Row:
    """A photo and a click, from its pixels to masks of its size, all in host memory."""

    def predict(predictor):
        predictor.set_image(PHOTO)
        return predictor.predict(**PROMPTS)

    ours = SAM2ImagePredictor(models.ours)
    sides = {"ours": lambda: predict(ours)}
    sides |= {side: finished(predict, official_image_predictor(model)) for side, model in models.official.items()}
    return timed_row("set_image + predict, 1800 x 1200", models.dtype, models.rounds, sides)


def track(models: Models, clip: Path, objects: int) -> tuple[Row, Parity | None]:
    """Seconds of a frame when all memories are full, masks in host memory; and how equal all the clip's masks are."""
    predictors = {"ours": SAM2VideoPredictor(models.ours), **models.official}
    for official in models.official.values():
        video_pair(official, models.ours, exact_memories=False)  # ends its progress bars

    def walk(side: str) -> Iterator[np.ndarray]:
        predictor = predictors[side]
        state = predictor.init_state(str(clip))
        for i in range(objects):
            predictor.add_new_points_or_box(state, 0, i, box=np.float32([50 + 20 * i, 60, 300 + 20 * i, 400]))
        for _, _, masks in predictor.propagate_in_video(state):
            yield masks if side == "ours" else masks.float().cpu().numpy()

    failures: dict[str, str] = {}
    able = working({side: lambda side=side: [None for _ in walk(side)] for side in predictors}, failures, 1)
    times: dict[str, list[float]] = {side: [] for side in able}
    equal, covered = [], []
    for frame in zip(*(timed(walk(side), times[side]) for side in able), strict=True):
        masks = {side: logits > 0 for side, logits in zip(able, frame, strict=True)}
        if "ours" in masks and "official" in masks:
            equal.append((masks["ours"] == masks["official"]).mean(axis=(1, 2, 3)).min())
            covered.append(masks["official"].mean())
    what = f"tracked frame, {objects} object" + "s" * (objects > 1)
    first = min(FULL, min(map(len, times.values()), default=0) // 2)
    steady = {side: of_side[first:] for side, of_side in times.items()}
    row = Row(what, models.dtype, steady, gflop=tracked_gflop(models.exact, objects), failures=failures)
    pair = f"{models.dtype}: ours and official, {len(equal)} frames, {what.split(', ')[1]}"
    return row, Parity(pair, None, None, None, float(min(equal)), float(np.mean(covered))) if equal else None


def tracked_gflop(model: SAM2, objects: int) -> float:
    """Of a frame's encoder and step, all memories full."""
    rows = np.ones(objects, np.int32)
    where = ObjectFrames(0 * rows, 30 * rows, 100 * rows, np.zeros(objects, bool))
    image = np.zeros((1, model.config.image_size, model.config.image_size, 3), np.uint8)
    features = jax.eval_shape(encode_frames, model, image)
    step = gflop(advance, model, full_bank(model.config, objects), features, where, rows > 0)
    return gflop(encode_frames, model, image) + step


def training(name: str, image_size: int, dtype: DType, batch: int, rounds: int) -> Row:
    """One step of the paper's recipe, data on the host, with random weights."""
    recipe = RECIPES["hqseg44k"].config
    config = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, name=name, checkpoint=None, image_size=image_size, dtype=dtype),
        batch_size=batch,
        epochs=None,
        steps=1000,
    )
    mesh, steps = make_mesh(devices=jax.devices()[:1]), config.total_steps()
    frames = np.stack(moving_frames(batch, image_size, image_size))
    masks = np.stack([255 * disk(i, image_size, image_size).astype(np.uint8) for i in range(batch)])
    with jax.set_mesh(mesh):
        model = starting_model(config.model, config.seed)
        skeleton = make_skeleton(config, model.config, config.model.refiner)
        state, frozen = place(model, skeleton, config, steps, mesh)
        step = compile_train_step(make_train_step(skeleton, config, steps, mesh), state, mesh)
        exact = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float32"))
        plain = make_train_step(make_skeleton(exact, model.config, config.model.refiner), exact, steps, mesh)
        count = gflop(plain, state, frozen, global_batch({"image": frames, "mask": masks}, mesh))

        def run():
            nonlocal state
            state, scalars = step(state, frozen, global_batch({"image": frames, "mask": masks}, mesh))
            return scalars

        what = f"training step of the refiner, batch {batch}"
        row = timed_row(what, dtype, rounds, {"ours": run}, items=batch, gflop=count)
        if not row.failures and int(state.broken) >= 0:  # of a step that failed, the state is gone
            raise ValueError(f"loss must be finite, but was not in step {int(state.broken)}")
    return row
