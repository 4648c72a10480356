"""A model of few blocks and small images, for what depends on neither; made once for all tests, so compiled once."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from sam2refiner_jax import PRESETS, SAM2, SAM2RefinerConfig, build_model
from sam2refiner_jax.config import HieraConfig, register_preset

TRUNK = HieraConfig(embed_dim=32, stages=(1, 1, 2, 1), global_att_blocks=(3,))
SMALL = register_preset(dataclasses.replace(PRESETS["sam2.1_hiera_t"], name="small", trunk=TRUNK, image_size=64))
RESIDUAL = SAM2RefinerConfig(residual_mask=True)


@functools.cache
def small_model() -> SAM2:
    return build_model("small")


@functools.cache
def fresh_refining_model() -> SAM2:
    """The same with a fresh refiner, which adds nothing to the coarse masks."""
    return build_model("small", refiner=RESIDUAL)


@functools.cache
def refining_model() -> SAM2:
    """The same with a refiner that does add to them, and to the decoder's input."""
    model = build_model("small", refiner=RESIDUAL)
    rng = np.random.default_rng(0)
    augment = model.refiner.localization_augment
    for layer in (augment.attn.out_proj, augment.mlp.layers[-1], model.refiner.mask_refinement.out):
        noise = rng.normal(0, 0.1, layer.kernel.shape)
        layer.kernel.set_value(jnp.asarray(noise, jnp.float32))
    return model
