"""What a refiner is, and the registry by which models find one. Nothing outside this package knows any single one.

A refiner stands around the mask decoder. `SAM2` calls it in five places:

1. `view_boxes`: parts of the image that it wants encoded as images of their own, in one batch with the whole;
2. `prepare`: once an image, what it keeps of image and features, whatever the prompts;
3. `augment`: what the decoder reads at stride 16;
4. `extra_tokens`: output tokens of its own, which the decoder takes along with those of its masks;
5. `__call__`: masks from the decoder's outputs.

What it wants to know at the next click on the same object it returns as `Refined.carry`; the predictors give it back.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ..config import SAM2Config, dataclass_from_dict
from ..features import ImageFeatures
from ..nn.mask_decoder import DecoderOutput
from ..nn.per_chip import Count
from ..nn.prompt_encoder import Prompts
from ..nn.resize import resize_bilinear

__all__ = [
    "REFINERS",
    "Blend",
    "Box",
    "Refined",
    "Refiner",
    "RefinerInputs",
    "build_refiner",
    "cut_views",
    "kind_of",
    "read_refiner_config",
    "register_refiner",
]

# Part of an image: x0, y0, x1, y1, each in [0, 1] of its width or height.
Box = tuple[float, float, float, float]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RefinerInputs:
    """What a refiner may read, one row an object.

    Attributes:
      prepared: what `Refiner.prepare` made of the object's image.
      decoder: all that the mask decoder computed.
      masks: of its masks, the logits of the one to refine, or of several (`Refiner.refines_each`).
      prompts: the prompts. In a video those of the first prompted frame, if `Refiner.reuse_first_prompt`.
      sparse: their embedded points and boxes.
      sparse_mask: which of these exist.
      image_pe: the decoder's positional encoding of the image.
      carry: what the refiner returned at the click before (`Refined.carry`), or `Refiner.initial_carry`.
    """

    prepared: Any
    decoder: DecoderOutput
    masks: Float[Array, "b *k m m"]
    prompts: Prompts
    sparse: Float[Array, "b n c"]
    sparse_mask: Bool[Array, "b n"]
    image_pe: Float[Array, "h w c"]
    carry: Any = ()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blend:
    """A mask made of two, in the image or in a window of it: `detail` where `errors` says so, `coarse` elsewhere.

    Attributes:
      coarse: logits of the mask that was there.
      errors: logits of where it is wrong.
      detail: logits of the mask that is right there.
      blended: logits of what was made of the two.
      window: x0, y0, x1, y1 in [0, 1] of the image; None if it is the whole.
    """

    coarse: Float[Array, "b n n"]
    errors: Float[Array, "b n n"]
    detail: Float[Array, "b n n"]
    blended: Float[Array, "b n n"]
    window: Float[Array, "b 4"] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Refined:
    """Refined masks.

    Attributes:
      masks: float32 logits, one for each mask given, at the stride that the refiner says (`Refiner.stride`).
      auxiliary: logits of other sizes that only training reads.
      blends: likewise, how the masks were put together.
      carry: what to give back at the next click on the same objects.
    """

    masks: Float[Array, "b *k _ _"]
    auxiliary: tuple[Float[Array, "b _ _"], ...] = ()
    blends: tuple[Blend, ...] = ()
    carry: Any = ()


class Refiner(nnx.Module):
    """Base class: a refiner that adds nothing before the decoder. Subclasses say what they do differently.

    A subclass has a constructor `(config, base, *, dtype, rngs)`, where `config` is its own frozen dataclass and `base`
    the model's `SAM2Config`.

    Attributes:
      kind: the registered name.
      Config: the class of its configuration.
      config: the configuration.
      view_boxes: parts of the image to encode as well.
      views: "input" cuts them from the model's input, "source" from the photo as it came, with what detail it has.
        Frames of videos are brought to the model's input size as they are read, so there it is always the input.
      reuse_first_prompt: in videos, whether frames without prompts are refined by those of the first prompted frame.
      stride: of the refined masks: 1 for the input's size; 4 for that of the decoder's own masks, in whose place they
        are then: as low-resolution logits for a next prompt, and as what a video's memory is made of.
      refines_each: whether each of three masks of an ambiguous prompt is refined, rather than the best of them.
    """

    kind: ClassVar[str]
    Config: ClassVar[type]
    config: Any

    def __init__(self, config: Any, base: SAM2Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.config = config

    @property
    def view_boxes(self) -> tuple[Box, ...]:
        return ()

    @property
    def views(self) -> str:
        return "input"

    @property
    def source_boxes(self) -> tuple[Box, ...]:
        """The `view_boxes`, where they are cut from the photo as it came; else none."""
        return self.view_boxes if self.views == "source" else ()

    @property
    def reuse_first_prompt(self) -> bool:
        return False

    @property
    def stride(self) -> int:
        return 1

    @property
    def refines_each(self) -> bool:
        return False

    def extra_tokens(self) -> Float[Array, "k c"] | None:
        """Learned output tokens that the decoder puts behind its own; `DecoderOutput.extra_tokens` is what they became.

        Other tokens attend to them, so that the decoder's own outputs differ from those without.
        """
        return None

    def initial_carry(self, objects: Count) -> Any:
        """The `carry` of a first click: any pytree of arrays whose first axis is the objects'; () for none."""
        return ()

    def carry_of(self, masks: Float[Array | np.ndarray, "b _ _"]) -> Any:
        """The `carry` where there are masks (logits as in `Refined.masks`) that no click gave, such as tracked ones."""
        return self.initial_carry(masks.shape[0])

    def prepare(
        self, images: Float[Array, "b s s 3"], features: ImageFeatures, views: Float[Array, "b v h w c"]
    ) -> Any:
        """What to keep of images: any pytree of arrays whose first axis is the batch.

        Args:
          images: normalised, as the encoder reads them.
          features: of the encoder, `stages` included.
          views: the stride-16 features of the `view_boxes`, in their order.
        """
        return ()

    def augment(self, embedding: Float[Array, "b h w c"], prepared: Any) -> Float[Array, "b h w c"]:
        """What the decoder reads at stride 16 instead of `embedding`."""
        return embedding

    def __call__(self, inputs: RefinerInputs) -> Refined:
        raise NotImplementedError


REFINERS: dict[str, type[Refiner]] = {}
R = TypeVar("R", bound=type[Refiner])


def register_refiner(kind: str, config: type) -> Callable[[R], R]:
    """Class decorator that makes a refiner known as `build_model(..., refiner=kind)`.

    Args:
      kind: its name.
      config: the class of its configuration, a frozen dataclass of plain values.
    """

    def register(cls: R) -> R:
        if kind in REFINERS:
            raise ValueError(f"a refiner named {kind!r} exists already")
        cls.kind, cls.Config = kind, config
        REFINERS[kind] = cls
        return cls

    return register


def build_refiner(refiner: Any, base: SAM2Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> Refiner:
    """A refiner with fresh weights for models of the configuration `base`.

    Args:
      refiner: a registered name, or a configuration of a registered refiner.
      base: the model's configuration.
      dtype: computation type.
      rngs: for the weights.

    Raises:
      ValueError: if no such refiner is registered.
    """
    if isinstance(refiner, str):
        return _registered(refiner)(REFINERS[refiner].Config(), base, dtype=dtype, rngs=rngs)
    for cls in REFINERS.values():
        if type(refiner) is cls.Config:
            return cls(refiner, base, dtype=dtype, rngs=rngs)
    raise ValueError(f"refiner must be one of {', '.join(REFINERS)}, or a configuration of one; got {refiner!r}")


def read_refiner_config(kind: str, values: dict[str, Any]) -> Any:
    """The configuration of a registered refiner from plain values.

    Raises:
      ValueError: on an unknown name or field.
    """
    return dataclass_from_dict(_registered(kind).Config, values)


def kind_of(config: Any) -> str:
    """The registered name of the refiner that a configuration is of."""
    return next(kind for kind, cls in REFINERS.items() if cls.Config is type(config))


def _registered(kind: str) -> type[Refiner]:
    if kind not in REFINERS:
        raise ValueError(f"refiner must be one of {', '.join(REFINERS)}, got {kind!r}")
    return REFINERS[kind]


def cut_views(images: Float[Array, "b s s 3"], boxes: tuple[Box, ...]) -> Float[Array, "b v s s 3"]:
    """Parts of images, each magnified to the images' own size (bilinear)."""
    size = images.shape[1]
    views = []
    for box in boxes:
        x0, y0, x1, y1 = (round(edge * size) for edge in box)
        views.append(resize_bilinear(images[:, y0:y1, x0:x1], (size, size)))
    shape = (images.shape[0], len(boxes), *images.shape[1:])
    return jnp.stack(views, axis=1) if views else jnp.zeros(shape, images.dtype)
