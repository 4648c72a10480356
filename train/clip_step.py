"""What a training step makes of clips: SAM 2's recipe for videos, over the very code that tracks.

A batch of clips is {"image": uint8 (clips, frames, s, s, 3), "mask": uint8 coverage (clips, frames, s, s, objects),
"visible": bool (clips, frames, objects)}. An object exists where it is visible in the first frame; other places are
empty, and take no part. A photo is a clip of one frame.

How a clip is learned (`sam2/training` in the official repository, SA-V and MOSE recipes):

1. The first frame is prompted, each object by a mask, a box or clicks (`PromptConfig`). A mask is taken as the result;
   what began otherwise gets `prompts.corrections` clicks on its errors, one after the other.
2. Every further frame is one step of a differentiated `lax.scan` over `tracking.advance`: memory attention, decoder,
   refiner, memory encoder. Memories are made of the model's own masks, and gradients flow through them to where the
   masks were made.
3. Up to `prompts.corrected` - 1 of these frames, the same for the whole step, get clicks on errors too; their memories
   then are those of prompted frames.
4. Each mask that was made, of every frame and after every click, has its losses (`losses.prompted_losses`). They are
   summed over frames and clicks and averaged over the objects that exist.

Only the frames' features, with a refiner what it makes them of, and the memory bank after each frame are kept for the
backward pass; all else is computed again (`jax.checkpoint`), so that memory grows slowly with the number of frames. The
encoder is among that only where it learns.

As the official training, and unlike tracking: memories of prompted frames are made of soft masks, through which
gradients flow; an unstable single mask is not replaced; memories have the type that the model computes in.
Unlike the official training: there is no dropout and no drop path; a click on an error never falls on what is right;
the mask that goes back in with a click is a constant; the first frame alone is prompted at the start.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from ..features import ImageFeatures
from ..nn.prompt_encoder import ABSENT, NOT_A_POINT, Prompts
from ..sam2 import ENCODED, SAM2
from ..video.memory_bank import MemoryBank, ObjectFrames, Slots
from ..video.tracking import (
    MASK_BIAS,
    MASK_SCALE,
    Segmentation,
    advance,
    condition_on_memory,
    encode_frames,
    encode_memory,
    input_size_masks,
    segment_mask_prompt,
    segment_prompted,
    segment_tracked,
)
from .config import TrainConfig
from .losses import mask_loss, prompted_losses
from .prompt_sampling import PromptKeys, correct_prompts, correction_keys, prompt_keys, sample_prompts

__all__ = ["ClipPart", "check_clip_losses", "clip_losses", "clip_part", "corrected_frames"]

# Keeps the choice of frames apart from the randomness of rows.
FRAMES = 0xF4A3E5

Losses = dict[str, Float[Array, ""]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClipPart:
    """What a step, or a part of one, learns from; the objects of a clip are rows one after the other.

    Attributes:
      images: the clips' frames.
      truth: the objects' coverage, 0 to 255.
      visible: which of them are to be seen.
      share: what an object's losses count: one over the number of objects; 0 for empty places.
      prompts: of the first frame. Those that are masks stand for the true mask.
      keys: of the rows.
      corrected: the frames whose objects get clicks on errors, the same in all clips.
    """

    images: UInt8[Array, "clips frames s s 3"]
    truth: UInt8[Array, "n frames s s"]
    visible: Bool[Array, "n frames"]
    share: Float[Array, " n"]
    prompts: Prompts
    keys: PromptKeys
    corrected: Bool[Array, "clips frames"]


def check_clip_losses(config: TrainConfig) -> None:
    """Raises a ValueError unless a run from clips has losses of clips, and no others."""
    loss = config.loss
    if loss.coarse or loss.auxiliary or loss.blends or loss.points:
        raise ValueError(
            "loss.coarse, auxiliary, blends and points are of photos and must be 0 for clips, which have loss.focal, "
            "dice, iou, object_score and final"
        )
    if config.prompts.divided:
        raise ValueError(f"prompts.divided must be 0 for clips, got {config.prompts.divided}")


def corrected_frames(seed: int, step: int | Int[Array, ""], frames: int, most: int) -> Bool[Array, " {frames}"]:
    """Which frames of the clips of a step get corrections: the first, and from none to `most` - 1 of the others."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), FRAMES), step)
    count_key, order_key = jax.random.split(key)
    others = jax.random.randint(count_key, (), 0, min(most, frames))
    order = jax.random.permutation(order_key, frames - 1)
    return jnp.concatenate([jnp.ones(1, bool), order < others])


def clip_part(config: TrainConfig, mask_size: int, step: Int[Array, ""], batch: Mapping[str, Array]) -> ClipPart:
    """A batch of clips with all that is random about the step."""
    clips, frames, s, _, objects = batch["mask"].shape
    truth = jnp.moveaxis(batch["mask"], -1, 1).reshape(clips * objects, frames, s, s)
    visible = jnp.moveaxis(batch["visible"], -1, 1).reshape(clips * objects, frames)
    keys = prompt_keys(config.seed, step, len(truth))
    prompts = sample_prompts(keys.sample, truth[:, 0] / 255, config.prompts, mask_size=mask_size)
    exists = visible[:, 0]
    share = exists * config.accumulate / jnp.maximum(exists.sum(), 1)  # parts of a step are averaged
    corrected = corrected_frames(config.seed, step, frames, config.prompts.corrected)
    corrected = jnp.broadcast_to(corrected, (clips, frames))
    return ClipPart(batch["image"], truth, visible, share, prompts, keys, corrected)


def clip_losses(model: SAM2, config: TrainConfig, part: ClipPart, scan: Callable[..., Any] = jax.lax.scan) -> Losses:
    """The losses of clips by name, summed over frames and clicks and averaged over objects.

    Args:
      model: of all weights.
      config: the run.
      part: the clips.
      scan: goes over the frames after the first; `jax.lax.scan`, or what does the same.
    """
    # An assembled model is nobody else's.
    model.config = dataclasses.replace(model.config, dynamic_multimask_via_stability=False)
    clips, frames = part.images.shape[:2]
    clip = _Clip(model, config, part, jnp.repeat(jnp.arange(clips), len(part.truth) // clips))
    features, structure = _encode(model, part.images)

    def start(first):
        return clip.start(jax.tree.unflatten(structure, first))

    def follow(bank, frame):
        features, *others = frame
        return clip.follow(bank, (jax.tree.unflatten(structure, features), *others))

    bank, losses = jax.checkpoint(start)([x[0] for x in features])
    if frames == 1:
        return jax.tree.map(jnp.asarray, losses)  # of masks that were given: nothing was found, and nothing computed
    corrected = part.corrected[0]
    used = jnp.cumsum(corrected)  # prompted slots after each frame
    rest = (
        [x[1:] for x in features],
        jnp.arange(1, frames),
        jnp.moveaxis(part.truth[:, 1:], 1, 0),
        part.visible[:, 1:].T,
        corrected[1:],
        used[1:] - 1,
    )
    _, further = scan(jax.checkpoint(follow, prevent_cse=False), bank, rest)
    return {name: losses[name] + further[name].sum() for name in losses}


def _encode(model: SAM2, images: UInt8[Array, "clips frames s s 3"]) -> tuple[list[Array], Any]:
    """The arrays of the frames' features, an axis of frames in front, and the structure that they are of in a frame."""
    structures = []

    def encode(frame):
        leaves, structure = jax.tree.flatten(encode_frames(model, frame))
        structures.append(structure)
        return leaves

    keep = jax.checkpoint_policies.save_only_these_names(ENCODED)
    return jax.lax.map(jax.checkpoint(encode, policy=keep), jnp.moveaxis(images, 1, 0)), structures[0]


@dataclasses.dataclass(frozen=True)
class _Clip:
    """What all frames of a batch of clips share; `image` says which clip each object is in."""

    model: SAM2
    config: TrainConfig
    part: ClipPart
    image: Int[Array, " n"]

    @property
    def clicked(self) -> Bool[Array, " n"]:
        """The objects that began with clicks or a box, and are corrected."""
        return ~jnp.asarray(self.part.prompts.has_mask)

    @property
    def origins(self) -> Prompts | None:
        """The first frame's prompts, for refiners that read them in other frames."""
        if self.model.refiner is None:
            return None
        nothing = jnp.zeros_like(self.part.prompts.has_mask)
        return dataclasses.replace(self.part.prompts, has_mask=nothing)

    def start(self, features: ImageFeatures) -> tuple[MemoryBank, Losses]:
        """The memories after the first frame, and its losses."""
        model, part = self.model, self.part
        truth, visible = part.truth[:, 0] / 255, part.visible[:, 0]
        mix = self.config.prompts
        found = None
        losses = self._no_losses()
        if mix.box or mix.points or mix.box_and_points:
            found = segment_prompted(model, features, self.image, part.prompts, with_decoded=True)
            losses = self._add(losses, found, part.prompts, truth, visible, self.clicked)

            def again(prompts, carry):
                return segment_prompted(model, features, self.image, prompts, carry, with_decoded=True)

            found, losses = self._correct(again, found, part.prompts, 0, truth, visible, losses)
        masks = None if found is None else input_size_masks(model, found)
        if mix.mask:
            inside = (truth > 0.5).astype(jnp.float32)
            given = segment_mask_prompt(model, features, self.image, inside)
            sharp = inside * MASK_SCALE + MASK_BIAS
            if found is None:
                found, masks = given, sharp
            else:
                assert masks is not None
                masks = jnp.where(self.clicked[:, None, None], masks, sharp)
                found = dataclasses.replace(
                    found,
                    pointers=jnp.where(self.clicked[:, None], found.pointers, given.pointers),
                    object_score_logits=jnp.where(self.clicked, found.object_score_logits, given.object_score_logits),
                )
        assert found is not None
        assert masks is not None
        memory = self._memory(features, masks, found.object_score_logits)
        slots = min(self.config.prompts.corrected, part.images.shape[1])
        bank = MemoryBank.empty(model.config, len(self.image), prompted_slots=slots, dtype=model.dtype)
        bank = jax.tree.map(jnp.asarray, bank)
        everything = jnp.ones(len(self.image), bool)
        return _with_prompted(bank, 0, 0, memory, found.pointers, everything), losses

    def follow(self, bank: MemoryBank, frame: Any) -> tuple[MemoryBank, Losses]:
        """One more frame, as `jax.lax.scan` wants it: the memories after it, and its losses."""
        features, number, truth, visible, corrected, slot = frame
        model, truth = self.model, truth / 255
        everything = jnp.ones(len(self.image), bool)
        where = ObjectFrames(
            self.image,
            jnp.full_like(self.image, number),
            jnp.full_like(self.image, self.part.images.shape[1]),
            jnp.zeros_like(everything),
        )
        before, clicked = bank, self.clicked & corrected
        bank, tracked = advance(model, before, features, where, ~clicked, self.origins, with_decoded=True)
        found = tracked.segmentation
        losses = self._add(self._no_losses(), found, None, truth, visible, everything)
        if self.config.prompts.corrected < 2 or not self.config.prompts.corrections:
            return bank, losses

        def correct(bank, losses):
            embedding = condition_on_memory(model, features, before, where)

            def again(prompts, carry):
                return segment_tracked(
                    model, features, before, where, prompts, carry=carry, embedding=embedding, with_decoded=True
                )

            prompts = self._no_prompts()
            better, losses = self._correct(again, found, prompts, number, truth, visible, losses)
            memory = self._memory(features, input_size_masks(model, better), better.object_score_logits)
            return _with_prompted(bank, slot, number, memory, better.pointers, clicked), losses

        return jax.lax.cond(corrected, correct, lambda bank, losses: (bank, losses), bank, losses)

    def _correct(
        self,
        again: Callable[[Prompts, Any], Segmentation],
        found: Segmentation,
        prompts: Prompts,
        number: int | Int[Array, ""],
        truth: Float[Array, "n s s"],
        visible: Bool[Array, " n"],
        losses: Losses,
    ) -> tuple[Segmentation, Losses]:
        """What is found after all clicks on errors, each of which has its losses."""
        keys = jax.vmap(lambda key: jax.random.split(key, self.part.images.shape[1])[number])(self.part.keys.correct)
        rounds = correction_keys(keys, self.config.prompts)

        def click(state, one):
            (found, prompts, losses), (order, round_keys) = state, one
            masks, shown, carry = jax.lax.stop_gradient((found.masks, found.refined, found.carry))
            prompts = correct_prompts(round_keys, prompts, order, len(rounds), masks, truth, shown)
            found = again(prompts, carry if jax.tree.leaves(carry) else None)
            losses = self._add(losses, found, prompts, truth, visible, self.clicked)
            return (dataclasses.replace(found, decoded=None), prompts, losses), None

        state = dataclasses.replace(found, decoded=None), jax.tree.map(jnp.asarray, prompts), losses
        clicks = [(jnp.asarray(order), round_keys) for order, round_keys in enumerate(rounds)]
        if clicks and self.model.refiner is not None:  # some carry from the first click on what they had not before
            state, _ = click(state, clicks.pop(0))
        if clicks:  # one program for all of them
            state, _ = jax.lax.scan(click, state, jax.tree.map(lambda *each: jnp.stack(each), *clicks))
        found, _, losses = state
        return found, losses

    def _memory(
        self, features: ImageFeatures, masks: Float[Array, "n s s"], scores: Float[Array, " n"]
    ) -> Float[Array, "n h h cm"]:
        return encode_memory(self.model, features, self.image, masks, scores, prompted=False)

    def _no_prompts(self) -> Prompts:
        """Prompts of nothing, with slots for corrections before the padding point."""
        count, slots = len(self.image), self.config.prompts.corrections + 1
        return Prompts(
            points=jnp.zeros((count, slots, 2)),
            labels=jnp.full((count, slots), ABSENT, jnp.int32).at[:, -1].set(NOT_A_POINT),
            mask=jnp.zeros_like(self.part.prompts.mask),
            has_mask=jnp.zeros(count, bool),
        )

    def _no_losses(self) -> Losses:
        loss = self.config.loss
        names = {"focal": loss.focal or loss.dice, "dice": loss.focal or loss.dice}
        names |= {"iou": loss.iou, "object_score": loss.object_score}
        if self.model.refiner is not None:
            names["final"] = loss.final
        return {name: jnp.zeros(()) for name, weight in names.items() if weight}

    def _add(
        self,
        losses: Losses,
        found: Segmentation,
        prompts: Prompts | None,
        truth: Float[Array, "n s s"],
        visible: Bool[Array, " n"],
        where: Bool[Array, " n"],
    ) -> Losses:
        """The losses with those of masks that were found from prompts, or from none, of some objects."""
        config = self.config.loss
        assert found.decoded is not None
        multimask = jnp.ones(len(truth), bool)
        if prompts is not None:  # as `tracking` has it: of a single click, the padding point beside it
            multimask = jnp.sum(prompts.labels != ABSENT, axis=1) <= 2
        # Of every click the masks at stride 4 are kept for the backward pass, not those at the input's size.
        measure = jax.checkpoint(functools.partial(prompted_losses, config=config))
        parts = measure(found.decoded, multimask, truth, visible)
        if self.model.refiner is not None and config.final:
            masks = found.masks if found.refined is None else found.refined
            parts["final"] = config.final * mask_loss(jnp.asarray(masks), truth) * visible
        share = self.part.share * where
        return {name: total + (parts[name] * share).sum() for name, total in losses.items()}


def _with_prompted(
    bank: MemoryBank,
    slot: int | Int[Array, ""],
    frame: int | Int[Array, ""],
    memory: Float[Array, "n h h cm"],
    pointers: Float[Array | Any, "n c"],
    where: Bool[Array, " n"],
) -> MemoryBank:
    """The bank with a prompted frame in a slot, for some objects."""
    frames = jnp.full(where.shape, frame)

    def put(slots: Slots, values: Array) -> Slots:
        return slots.put(frames, values, where[:, None] & (jnp.arange(slots.frames.shape[1]) == slot))

    return dataclasses.replace(
        bank, prompted=put(bank.prompted, memory), prompted_pointers=put(bank.prompted_pointers, jnp.asarray(pointers))
    )
