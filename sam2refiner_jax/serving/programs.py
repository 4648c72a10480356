"""What can be exported: pure functions from named arrays to named arrays, with the weights as one of them.

Structures such as features and memory banks go in and come out as flat dictionaries, so that who runs the programs
needs none of this package's types.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from ..image.encoding import encode_photos
from ..image.predictor import decode_prompts, refine_prompts
from ..image.preprocess import normalise
from ..nn.prompt_encoder import Prompts
from ..sam2 import SAM2
from ..video.memory_bank import MemoryBank, ObjectFrames, Slots
from ..video.tracking import advance, encode_memory, input_size_masks, segment_mask_prompt, segment_prompted

__all__ = ["Program", "programs_of"]

Arrays = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to export.

    Attributes:
      function: of the weights, in the order of the model's leaves, and of named arrays; gives named arrays.
      inputs: the arrays' types; where a side is a word, any number of them is taken, the same for the same word.
      purpose: in a line.
    """

    function: Callable[[list[Array], Arrays], dict[str, Array]]
    inputs: dict[str, tuple[tuple[int | str, ...], np.dtype]]
    purpose: str


def programs_of(model: SAM2, *, clicks: int = 11, prompted: int = 1) -> dict[str, Program]:
    """The programs of a model, by name.

    Args:
      model: the model, with its refiner if it has one.
      clicks: slots of clicks and box corners of an object; those that are not used have the label -2.
      prompted: frames with prompts that a tracked object remembers.
    """
    definition, _ = nnx.split(model)
    treedef = jax.tree.structure(nnx.state(model))
    config, size = model.config, model.config.image_size

    def rebuilt(weights: list[Array]) -> SAM2:
        return nnx.merge(definition, jax.tree.unflatten(treedef, weights))

    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    photos_form = _Form("features", lambda image: encode_photos(model, image), "images", images)
    bank_form = _Form("memory", lambda: MemoryBank.empty(config, 1, prompted_slots=prompted), "objects")
    prompts = {
        "points": (("objects", clicks, 2), np.dtype("float32")),
        "labels": (("objects", clicks), np.dtype("int32")),
        "mask": (("objects", config.mask_size, config.mask_size), np.dtype("float32")),
        "has_mask": (("objects",), np.dtype("bool")),
    }
    which = {"image": (("objects",), np.dtype("int32"))}
    reads_first_prompts = model.refiner is not None and model.refiner.reuse_first_prompt
    where = {name: (("objects",), np.dtype("int32")) for name in ("image", "frame", "num_frames")}

    def encode(weights: list[Array], given: Arrays) -> dict[str, Array]:
        return photos_form.flat(encode_photos(rebuilt(weights), normalise(given["images"])))

    def decode(weights: list[Array], given: Arrays) -> dict[str, Array]:
        found = decode_prompts(rebuilt(weights), photos_form.whole(given), given["image"], _prompts(given))
        return {name: getattr(found, name) for name in ("multi", "multi_iou", "single", "single_iou")}

    def refine(weights: list[Array], given: Arrays) -> dict[str, Array]:
        rebuilt_model = rebuilt(weights)
        assert rebuilt_model.refiner is not None
        carry = rebuilt_model.refiner.initial_carry(given["labels"].shape[0])
        found = refine_prompts(
            rebuilt_model, photos_form.whole(given), given["image"], _prompts(given), given["multimask"], carry
        )
        return {"masks": found.masks, "iou": found.iou}

    def start(weights: list[Array], given: Arrays) -> dict[str, Array]:
        rebuilt_model, photos = rebuilt(weights), photos_form.whole(given)
        found = segment_prompted(rebuilt_model, photos.features, given["image"], _prompts(given))
        return remembered(rebuilt_model, photos, given, found)

    def start_from_mask(weights: list[Array], given: Arrays) -> dict[str, Array]:
        rebuilt_model, photos = rebuilt(weights), photos_form.whole(given)
        found = segment_mask_prompt(rebuilt_model, photos.features, given["image"], given["masks"])
        return remembered(rebuilt_model, photos, given, found)

    def remembered(model: SAM2, photos: Any, given: Arrays, found: Any) -> dict[str, Array]:
        """The bank with the frame's memory in its slot `slot`, and the masks."""
        masks, scores = input_size_masks(model, found), jnp.asarray(found.object_score_logits)
        memory = encode_memory(model, photos.features, given["image"], masks, scores, prompted=True)
        before = bank_form.whole(given)
        rows, slot, at = jnp.arange(scores.shape[0]), given["slot"], given["frame"]

        def put(slots: Slots, values: Array) -> Slots:
            values = values.astype(slots.values.dtype)
            return Slots(
                jnp.asarray(slots.frames).at[rows, slot].set(at), jnp.asarray(slots.values).at[rows, slot].set(values)
            )

        after = dataclasses.replace(
            before,
            prompted=put(before.prompted, memory),
            prompted_pointers=put(before.prompted_pointers, jnp.asarray(found.pointers)),
        )
        return {**bank_form.flat(after), "masks": masks, "object_score_logits": scores}

    def track(weights: list[Array], given: Arrays) -> dict[str, Array]:
        rebuilt_model, photos = rebuilt(weights), photos_form.whole(given)
        frames = ObjectFrames(given["image"], given["frame"], given["num_frames"], given["reverse"])
        first = _prompts(given) if reads_first_prompts else None
        after, tracked = advance(rebuilt_model, bank_form.whole(given), photos.features, frames, given["active"], first)
        masks = input_size_masks(rebuilt_model, tracked.segmentation)
        scores = jnp.asarray(tracked.segmentation.object_score_logits)
        return {**bank_form.flat(after), "masks": masks, "object_score_logits": scores}

    flags = {name: (("objects",), np.dtype("bool")) for name in ("reverse", "active")}
    slot = {"slot": (("objects",), np.dtype("int32")), "frame": (("objects",), np.dtype("int32"))}
    given_masks = {"masks": (("objects", size, size), np.dtype("float32"))}
    found = {
        "encode": Program(
            encode,
            {"images": (("images", size, size, 3), np.dtype("float32"))},
            "features of images that were squeezed to the input size, RGB in [0, 1]",
        ),
        "decode": Program(
            decode, {**photos_form.types, **which, **prompts}, "three masks of each object, and one, at stride 4"
        ),
        "start": Program(
            start,
            {**photos_form.types, **bank_form.types, **which, **prompts, **slot},
            "masks of objects from clicks and boxes, and a memory bank that knows them",
        ),
        "start_from_mask": Program(
            start_from_mask,
            {**photos_form.types, **bank_form.types, **which, **given_masks, **slot},
            "the same from masks of 0 and 1 at the input size",
        ),
        "track": Program(
            track,
            {**photos_form.types, **bank_form.types, **where, **flags, **(prompts if reads_first_prompts else {})},
            "objects in one more frame, and the memory bank after it; the prompts are those of an object's first frame",
        ),
    }
    if not config.memory:  # a model for photos alone
        found = {name: found[name] for name in ("encode", "decode")}
    if model.refiner is not None:
        multimask = {"multimask": ((), np.dtype("bool"))}
        inputs = {**photos_form.types, **which, **prompts, **multimask}
        found["refine"] = Program(refine, inputs, "a refined mask of each object, of the best of three or of the one")
    return found


def _prompts(given: Arrays) -> Prompts:
    return Prompts(given["points"], given["labels"], given["mask"], given["has_mask"])


class _Form:
    """How a structure of arrays becomes a flat dictionary and comes back.

    Args:
      name: what its arrays' names begin with.
      make: makes such a structure, whose first axis may have any length.
      axis: what that axis is of.
      given: what `make` takes.
    """

    def __init__(self, name: str, make: Callable[..., Any], axis: str, *given: jax.ShapeDtypeStruct):
        self._tree: Any = None
        names: list[str] = []

        def leaves(*given: Array) -> list[Array]:
            paths, self._tree = jax.tree_util.tree_flatten_with_path(make(*given))
            names[:] = [name + jax.tree_util.keystr(path) for path, _ in paths]
            return [jnp.asarray(leaf) for _, leaf in paths]

        shapes = jax.eval_shape(leaves, *given)
        self.types = {
            name: ((axis, *leaf.shape[1:]), np.dtype(leaf.dtype)) for name, leaf in zip(names, shapes, strict=True)
        }

    def flat(self, structure: Any) -> dict[str, Array]:
        return dict(zip(self.types, map(jnp.asarray, jax.tree.leaves(structure)), strict=True))

    def whole(self, given: Arrays) -> Any:
        return jax.tree.unflatten(self._tree, [given[name] for name in self.types])
