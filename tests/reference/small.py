"""A model of few blocks and small images, for what depends on neither; made once for all tests, so compiled once."""

import copy
import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from sam2refiner_jax import PRESETS, SAM2, SAM2RefinerConfig, SAMRefConfig, build_model
from sam2refiner_jax.config import HieraConfig, register_preset

TRUNK = HieraConfig(embed_dim=32, stages=(1, 1, 2, 1), global_att_blocks=(3,))
SMALL = register_preset(
    dataclasses.replace(PRESETS["sam2.1_hiera_t"], name="small", trunk=TRUNK, image_size=64, memory_layers=1)
)
DEEP = register_preset(dataclasses.replace(SMALL, name="small_deep", memory_layers=4))
RESIDUAL = SAM2RefinerConfig(residual_mask=True)


@functools.cache
def small_model() -> SAM2:
    """One that takes every object for present, which fresh weights do not."""
    return _seeing_objects(build_model("small"))


@functools.cache
def deep_model() -> SAM2:
    """The same with all layers of memory attention, for what depends on how much memories change."""
    return _seeing_objects(build_model("small_deep"))


@functools.cache
def fresh_refining_model() -> SAM2:
    """The same with a fresh refiner, which adds nothing to the coarse masks."""
    return _seeing_objects(build_model("small", refiner=RESIDUAL))


@functools.cache
def refining_model() -> SAM2:
    """The same with a refiner that does add to them, and to the decoder's input."""
    model = _seeing_objects(build_model("small", refiner=RESIDUAL))
    augment, rng = model.refiner.localization_augment, np.random.default_rng(0)
    for layer in (augment.attn.out_proj, augment.mlp.layers[-1], model.refiner.mask_refinement.out):
        layer.kernel.set_value(jnp.asarray(rng.normal(0, 0.1, layer.kernel.shape), jnp.float32))
    return model


@functools.cache
def hq_model() -> SAM2:
    """The same with a fresh refiner of HQ-SAM 2."""
    return _seeing_objects(build_model("small", refiner="hq_sam2"))


@functools.cache
def sam_ref_model() -> SAM2:
    """The same with a fresh SAM-REF, which looks back at the clicks before."""
    return _seeing_objects(build_model("small", refiner=SAMRefConfig(width=8, blocks=3, click_radius=2.0)))


def wavering(model: SAM2) -> SAM2:
    """The same with predicted IoUs and object scores that differ from mask to mask and from frame to frame."""
    model = copy.deepcopy(model)  # with variables of its own: the small models are shared by all tests of a process
    decoder = model.sam_mask_decoder
    # Of fresh weights, these are nearly constants; what is left of them is magnified.
    for head, constant, times, middle in (
        (decoder.iou_prediction_head, [0.0, -0.2148, -0.0993, -0.128], 60, 0.4),
        (decoder.pred_obj_score_head, [0.914], 200, 1.0),
    ):
        last = head.layers[-1]
        last.kernel.set_value(times * last.kernel[...])
        last.bias.set_value(middle + times * (last.bias[...] - jnp.asarray(constant)))
    return model


def _seeing_objects(model: SAM2) -> SAM2:
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.set_value(jnp.ones(1))
    return model
