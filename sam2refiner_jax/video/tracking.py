"""Tracking as pure functions: segment a frame in the light of the memory bank, remember it, go on.

Every function works on a batch of objects, which may be in several images (`ObjectFrames.image`). The stages of a
tracked frame are: encode the image, condition its features on the memories, decode masks, bring them to the image's
size, refined if the model has a refiner, encode them as a memory.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from ..config import SAM2Config
from ..features import ImageFeatures
from ..image.preprocess import normalise
from ..nn.mask_decoder import DecoderOutput, select_single_mask
from ..nn.per_chip import Count
from ..nn.positional import sine_encoding_2d
from ..nn.prompt_encoder import ABSENT, NOT_A_POINT, Prompts
from ..nn.resize import resize_planes
from ..sam2 import SAM2
from .memory_bank import EMPTY, MemoryBank, ObjectFrames, Slots
from .policies import Candidates, Found

__all__ = [
    "EMPTY",
    "MASK_BIAS",
    "MASK_SCALE",
    "MemoryBank",
    "NO_OBJECT_SCORE",
    "ObjectFrames",
    "Segmentation",
    "Slots",
    "TrackedFrame",
    "advance",
    "condition_on_memory",
    "encode_frames",
    "encode_memory",
    "input_size_masks",
    "remember_correction",
    "segment_mask_prompt",
    "segment_prompted",
    "segment_tracked",
    "track_clip",
    "track_frame",
    "upsample_masks",
]

# Logits of masks of objects that are not in the image.
NO_OBJECT_SCORE = -1024.0
# A mask's values from 0 to 1 become logits from -10 to 10, both as prompts and for the memory encoder.
MASK_SCALE, MASK_BIAS = 20.0, -10.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Masks of a batch of objects.

    Attributes:
      masks: float32 logits at stride 4, refined by a refiner of that stride; -1024 everywhere where the object is not
        in the image.
      pointers: object pointers.
      object_score_logits: positive where the object is in the image.
      predicted_iou: the predicted IoU of the mask with the truth, in [0, 1], before a refiner made the mask finer and
        whether or not the object is in the image; NaN for given masks, which nobody predicted.
      refined: refined logits at the model's input size; None without a refiner of that size.
      carry: what the refiner is to be given back with the next clicks on the same frame.
      decoded: all that the decoder made, for losses; None unless asked for.
    """

    masks: Float[Array | np.ndarray, "*frames objects m m"]
    pointers: Float[Array | np.ndarray, "*frames objects c"]
    object_score_logits: Float[Array | np.ndarray, "*frames objects"]
    predicted_iou: Float[Array | np.ndarray, "*frames objects"]
    refined: Float[Array | np.ndarray, "*frames objects s s"] | None = None
    carry: Any = ()
    decoded: DecoderOutput | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrackedFrame:
    """A segmentation and the memory features made of it, (objects, h, h, cm), or None where they were dropped."""

    segmentation: Segmentation
    memory: Float[Array | np.ndarray, "*frames objects h h cm"] | None


def encode_frames(model: SAM2, frames: UInt8[Array | np.ndarray, "b s s 3"]) -> ImageFeatures:
    """Features of RGB frames that were resized to the model's input, and what the refiner needs of them."""

    def encode(frames):
        return model.encode(normalise(frames.astype(jnp.float32) / 255))

    def encode_in_turn(frames):
        structures = []

        def encode_one(frame):
            leaves, structure = jax.tree.flatten(encode(frame[None]))
            structures.append(structure)
            return [x[0] for x in leaves]

        leaves = jax.lax.map(encode_one, frames)
        return jax.tree.unflatten(structures[0], leaves)

    if len(frames) == 1:
        return encode(frames)
    # A CPU's caches hold one image better than several.
    return jax.lax.platform_dependent(frames, cpu=encode_in_turn, default=encode)


def condition_on_memory(
    model: SAM2, features: ImageFeatures, bank: MemoryBank, frames: ObjectFrames
) -> Float[Array, "objects h h c"]:
    """What the mask decoder reads at stride 16 of each object's image."""
    side = model.config.embedding_size
    with model.precision():
        places = sine_encoding_2d(side, side, model.config.hidden_dim)
        return model.memory_attention(features.embedding[frames.image], places, bank.recall(model, frames))


def segment_tracked(
    model: SAM2,
    features: ImageFeatures,
    bank: MemoryBank,
    frames: ObjectFrames,
    prompts: Prompts | None = None,
    origins: Prompts | None = None,
    carry: Any = None,
    *,
    embedding: Float[Array, "objects h h c"] | None = None,
    with_decoded: bool = False,
) -> Segmentation:
    """Finds objects in the light of their memories, and of new clicks on them if there are any.

    Args:
      model: the model.
      features: of the images.
      bank: the memories.
      frames: where each object is looked for.
      prompts: new clicks, for which the bank's policy does not choose the mask.
      origins: the prompts of each object's first prompted frame, for the refiner to read where there are no new ones.
      carry: what the refiner carried away from earlier clicks on the frame, if there were any.
      embedding: with new clicks: what `condition_on_memory` gave of the same memories and frames, if that is at hand.
      with_decoded: with new clicks: also return all that the decoder made.
    """
    if prompts is not None:
        if embedding is None:
            embedding = condition_on_memory(model, features, bank.first_paths(), frames)
        return _segment(model, embedding, features.take(frames.image), prompts, prompts, carry, with_decoded)
    paths = bank.policy.paths
    rows, origins = _repeat((frames, origins), paths)
    active = np.ones(len(rows.image), bool)
    return _first(_follow(model, features, bank, rows, active, origins)[0], paths)


def segment_prompted(
    model: SAM2,
    features: ImageFeatures,
    image: Int[Array | np.ndarray, " objects"],
    prompts: Prompts,
    carry: Any = None,
    *,
    with_decoded: bool = False,
) -> Segmentation:
    """Segments objects from clicks and boxes alone, as in photos: a frame on which tracking starts.

    `carry` is what the refiner carried away from earlier clicks on the frame, if there were any; `with_decoded` asks
    for all that the decoder made.
    """
    features = features.take(image)
    return _segment(model, model.image_embedding(features), features, prompts, prompts, carry, with_decoded)


def segment_mask_prompt(
    model: SAM2,
    features: ImageFeatures,
    image: Int[Array | np.ndarray, " objects"],
    masks: Float[Array | np.ndarray, "objects s s"],
) -> Segmentation:
    """Takes given masks (0 or 1, at the model's input size) as the result; the decoder gives only the pointers."""
    features, masks = features.take(image), jnp.asarray(masks)
    with model.precision():
        low_res = resize_planes(masks * MASK_SCALE + MASK_BIAS, (model.config.mask_size,) * 2, antialias=True)
        mask_prompt = model.mask_downsample(masks[..., None])[..., 0].astype(jnp.float32)
        prompts = _no_prompts(model.config, masks.shape[0])
        prompts = dataclasses.replace(prompts, mask=mask_prompt, has_mask=jnp.ones(masks.shape[0], bool))
        # The mask is the truth, so nothing is ambiguous: the pointer is the single mask's.
        output = model.decode(features.embedding, features, prompts, with_refiner=True)
        pointers = _object_pointers(model, output.mask_tokens[:, 0], output.object_score_logits[:, 0])
        scores = jnp.any(masks > 0, axis=(1, 2)) * MASK_SCALE + MASK_BIAS
        is_finer = model.refiner is not None and model.refiner.stride == 1
        refined = masks * MASK_SCALE + MASK_BIAS if is_finer else None
        unknown = jnp.full(masks.shape[0], jnp.nan)
        return Segmentation(low_res, _mark_absent(model, pointers, scores), scores, unknown, refined)


def input_size_masks(model: SAM2, segmentation: Segmentation) -> Float[Array, "objects s s"]:
    """Mask logits at the model's input size, which the memory encoder reads: refined ones, or upsampled ones."""
    if segmentation.refined is not None:
        return jnp.asarray(segmentation.refined)
    return upsample_masks(model, segmentation.masks)


def upsample_masks(model: SAM2, masks: Float[Array | np.ndarray, "objects m m"]) -> Float[Array, "objects s s"]:
    """Mask logits at the model's input size."""
    with model.precision():
        return resize_planes(masks, (model.config.image_size,) * 2)


def encode_memory(
    model: SAM2,
    features: ImageFeatures,
    image: Int[Array | np.ndarray, " objects"],
    masks: Float[Array | np.ndarray, "objects s s"],
    object_score_logits: Float[Array | np.ndarray, " objects"],
    *,
    prompted: bool,
) -> Float[Array, "objects h h cm"]:
    """Memory features of objects with these masks.

    Args:
      model: the model.
      features: of the images.
      image: which image each object is in.
      masks: logits at the model's input size (`input_size_masks`).
      object_score_logits: positive where the object is in the image.
      prompted: whether a user made the masks, in which case they are taken as what they show: 0 and 1.
    """
    with model.precision():
        values = jnp.where(masks > 0, 1.0, 0.0) if prompted else jax.nn.sigmoid(masks)
        values = (values * MASK_SCALE + MASK_BIAS)[..., None].astype(model.dtype)
        memory = model.memory_encoder(features.embedding[image], values)
        if model.config.no_obj_embed_spatial:
            absent = (object_score_logits <= 0)[:, None, None, None]
            memory = memory + absent * model.no_obj_embed_spatial[...][0].astype(memory.dtype)
        return memory


def advance(
    model: SAM2,
    bank: MemoryBank,
    features: ImageFeatures,
    frames: ObjectFrames,
    active: Bool[Array | np.ndarray, " objects"],
    origins: Prompts | None = None,
    *,
    with_decoded: bool = False,
) -> tuple[MemoryBank, TrackedFrame]:
    """Tracks every object into one more frame.

    Args:
      model: the model.
      bank: the memories before.
      features: of the batch's images (`encode_frames`), each computed once, whatever the number of objects in it.
      frames: where each object is looked for.
      active: False for rows that pad the batch and for objects that have a prompt in this frame: the bank does not
        change for them, and their results mean nothing.
      origins: the prompts of each object's first prompted frame, which only refiners read.
      with_decoded: also return all that the decoder made.

    Returns:
      The memories after, and the frame's results.
    """
    paths = bank.policy.paths
    frames, active, origins = _repeat((frames, active, origins), paths)
    segmentation, bank, found = _follow(model, features, bank, frames, active, origins, with_decoded)
    masks = input_size_masks(model, segmentation)
    memory = encode_memory(
        model, features, frames.image, masks, segmentation.object_score_logits, prompted=False
    ).astype(bank.recent.values.dtype)
    bank = bank.remember(frames, memory, segmentation.pointers, found, active)
    # Nobody clicks here, and who does later goes on from the mask (`Refiner.carry_of`).
    return bank, _first(TrackedFrame(dataclasses.replace(segmentation, carry=()), memory), paths)


def remember_correction(
    bank: MemoryBank,
    frames: ObjectFrames,
    memory: Float[Array | np.ndarray, "objects h h cm"],
    pointers: Float[Array | np.ndarray, "objects c"],
    masks: Float[Array | np.ndarray, "objects m m"],
    object_score_logits: Float[Array | np.ndarray, " objects"],
) -> MemoryBank:
    """The memories after a tracked frame whose masks somebody corrected, so that the policy takes them for certain."""
    corrected = frames, memory, pointers, masks, object_score_logits
    frames, memory, pointers, masks, scores = _repeat(jax.tree.map(jnp.asarray, corrected), bank.policy.paths)
    candidates = Candidates(masks[:, None], jnp.ones((masks.shape[0], 1)), scores)
    found = Found(candidates, jnp.zeros(masks.shape[0], jnp.int32))
    return bank.remember(frames, memory, pointers, found, jnp.ones(masks.shape[0], bool))


@functools.partial(jax.jit, donate_argnames="bank")
def track_frame(
    model: SAM2,
    bank: MemoryBank,
    features: ImageFeatures,
    frames: ObjectFrames,
    active: Bool[Array | np.ndarray, " objects"],
    origins: Prompts | None = None,
) -> tuple[MemoryBank, TrackedFrame]:
    """`advance`, compiled: the driver for clips that arrive frame by frame. The old bank's buffers are reused."""
    return advance(model, bank, features, frames, active, origins)


@functools.partial(jax.jit, donate_argnames="bank", static_argnames="with_memory")
def track_clip(
    model: SAM2,
    bank: MemoryBank,
    clips: UInt8[Array | np.ndarray, "frames clips s s 3"],
    start: ObjectFrames,
    active: Bool[Array | np.ndarray, "frames objects"],
    origins: Prompts | None = None,
    *,
    with_memory: bool = False,
) -> tuple[MemoryBank, TrackedFrame]:
    """Tracks through whole stored clips of one length, encoder included, as one compiled scan.

    Args:
      model: the model.
      bank: the memories before the first frame; its buffers are reused.
      clips: frames in the order of tracking, several clips side by side.
      start: where each object is looked for first.
      active: see `advance`; one row a frame.
      origins: see `advance`.
      with_memory: also return every frame's memory features, which are large.

    Returns:
      The memories after the last frame, from which a further call can go on, and the results with an axis of frames
      in front.
    """

    def step(carry, frame):
        bank, where = carry
        images, active = frame
        bank, tracked = advance(model, bank, encode_frames(model, images), where, active, origins)
        if not with_memory:
            tracked = dataclasses.replace(tracked, memory=None)
        return (bank, where.next()), tracked

    bank, start = jax.tree.map(jnp.asarray, (bank, start))
    (bank, _), tracked = jax.lax.scan(step, (bank, start), (clips, active))
    return bank, tracked


def _no_prompts(config: SAM2Config, objects: Count) -> Prompts:
    """Prompts that say nothing: officially a point that is none, and the padding point."""
    return Prompts(
        points=jnp.zeros((objects, 2, 2)),
        labels=jnp.full((objects, 2), NOT_A_POINT, jnp.int32),
        mask=jnp.zeros((objects, config.mask_size, config.mask_size)),
        has_mask=jnp.zeros(objects, bool),
    )


def _repeat(of_objects: Any, paths: int) -> Any:
    """A row for each path of each object, from a row for each object."""
    return of_objects if paths == 1 else jax.tree.map(lambda x: jnp.repeat(x, paths, axis=0), of_objects)


def _first(of_paths: Any, paths: int) -> Any:
    """Each object's first row."""
    return of_paths if paths == 1 else jax.tree.map(lambda x: x[::paths], of_paths)


def _follow(
    model: SAM2,
    features: ImageFeatures,
    bank: MemoryBank,
    frames: ObjectFrames,
    active: Bool[Array | np.ndarray, " rows"],
    origins: Prompts | None,
    with_decoded: bool = False,
) -> tuple[Segmentation, MemoryBank, Found]:
    """What the bank's policy makes of a frame without prompts, one row for each of the bank's.

    Returns:
      The masks; the bank, whose rows are those of the paths that go on; and what the policy is to remember.
    """
    policy, count = bank.policy, frames.image.shape[0]
    embedding = condition_on_memory(model, features, bank, frames)
    features, prompts = features.take(frames.image), _no_prompts(model.config, count)
    output = model.decode(model.augment(embedding, features), features, prompts, with_refiner=True)
    candidates = Candidates(output.masks[:, 1:], output.iou[:, 1:], output.object_score_logits[:, 0])
    choice = policy.choose(bank.situation(frames), candidates)
    if choice.path is not None:
        rows = jnp.arange(count)
        rows = jnp.where(active, rows - rows % policy.paths + choice.path, rows)
        output, candidates = jax.tree.map(lambda x: x[rows], (output, candidates))
        bank = bank.going_on_from(rows)
    origins = prompts if origins is None else origins
    chosen = 1 + choice.mask
    segmentation = _complete(model, output, features, prompts, origins, chosen=chosen, with_decoded=with_decoded)
    return segmentation, bank, Found(candidates, choice.mask)


def _segment(
    model: SAM2,
    embedding: Float[Array, "objects h h c"],
    features: ImageFeatures,
    prompts: Prompts,
    refiner_prompts: Prompts,
    carry: Any = None,
    with_decoded: bool = False,
) -> Segmentation:
    output = model.decode(model.augment(embedding, features), features, prompts, with_refiner=True)
    return _complete(model, output, features, prompts, refiner_prompts, carry, with_decoded=with_decoded)


def _complete(
    model: SAM2,
    output: DecoderOutput,
    features: ImageFeatures,
    prompts: Prompts,
    refiner_prompts: Prompts,
    carry: Any = None,
    chosen: Int[Array, " objects"] | None = None,
    *,
    with_decoded: bool = False,
) -> Segmentation:
    """The object's mask of the decoder's, that which was chosen where the prompts leave it open, refined."""
    with model.precision():
        coarse, tokens, iou = _choose_mask(output, prompts, model.config, chosen)
        scores = output.object_score_logits[:, 0]
        is_there = (scores > 0)[:, None, None]
        refined, carried = None, ()
        if model.refiner is not None:
            result = model.refine(features, output, coarse, refiner_prompts, carry)
            refined, carried = result.masks, result.carry
            if model.refiner.stride == 4:
                coarse, refined = refined, None
            else:
                refined = jnp.where(is_there, refined, NO_OBJECT_SCORE)
        masks = jnp.where(is_there, coarse, NO_OBJECT_SCORE)
        decoded = output if with_decoded else None
        return Segmentation(masks, _object_pointers(model, tokens, scores), scores, iou, refined, carried, decoded)


def _choose_mask(
    output: DecoderOutput, prompts: Prompts, config: SAM2Config, chosen: Int[Array, " objects"] | None = None
) -> tuple[Float[Array, "objects m m"], Float[Array, "objects c"], Float[Array, " objects"]]:
    """Each object's mask, the token it came from, and the mask's predicted IoU.

    At most one point, or none, is ambiguous: the best of three masks, or that which was chosen. More of them, or a box,
    ask for the single mask; where that is unstable another mask stands in for it, but its token does not. Points that
    users pad with count, as officially; the padding point that ends every set does not.
    """
    ambiguous = jnp.sum(prompts.labels != ABSENT, axis=1) <= 2
    best = 1 + jnp.argmax(output.iou[:, 1:], axis=1) if chosen is None else chosen
    rows = jnp.arange(best.shape[0])
    single, single_iou = select_single_mask(output, config)
    masks = jnp.where(ambiguous[:, None, None], output.masks[rows, best], single[:, 0])
    tokens = jnp.where(ambiguous[:, None], output.mask_tokens[rows, best], output.mask_tokens[:, 0])
    return masks, tokens, jnp.where(ambiguous, output.iou[rows, best], single_iou[:, 0])


def _object_pointers(
    model: SAM2, tokens: Float[Array, "objects c"], scores: Float[Array, " objects"]
) -> Float[Array, "objects c"]:
    return _mark_absent(model, model.obj_ptr_proj(tokens).astype(jnp.float32), scores)


def _mark_absent(
    model: SAM2, pointers: Float[Array, "objects c"], scores: Float[Array, " objects"]
) -> Float[Array, "objects c"]:
    """Replaces the pointers of objects that are not in the image."""
    return jnp.where((scores > 0)[:, None], pointers, model.no_obj_ptr[...])
