"""Plans of runs, on simulated devices; what a compiled program costs on TPUs is in test_compiled_cost.py."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from training import REFINER, clip_config, tiny_config

from sam2refiner_jax.config import get_config
from sam2refiner_jax.image.preprocess import normalise
from sam2refiner_jax.train.config import DataConfig, TrainConfig
from sam2refiner_jax.train.parts import make_skeleton
from sam2refiner_jax.train.plan import lower_step, plan_run
from sam2refiner_jax.train.prompt_sampling import prompt_keys, sample_prompts
from sam2refiner_jax.train.recipes import RECIPES
from sam2refiner_jax.train.sharding import make_mesh
from sam2refiner_jax.train.step import predict

# Where the weights of the memory lie.
MEMORY = ("memory_", "maskmem_", "mask_downsample.", "no_mem_pos_enc", "no_obj_", "obj_ptr_")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    return tiny_config(tmp_path_factory.mktemp("data"))


def test_a_plan_adds_up(config):
    plan = plan_run(config, "cpu:1", chip="v6e")
    cost = plan.cost
    assert cost is not None
    assert (plan.chips, plan.batch_size, plan.steps, plan.per_chip) == (1, 8, 6, 8.0)
    assert cost.fits
    # Two moments and a copy of what learns, which is given back in place, and the frozen
    # weights but those of the memory, which images do not need.
    params, frozen = make_skeleton(config, get_config(config.model.name), REFINER).shapes()
    used = {name: x for name, x in frozen.items() if not name.startswith(MEMORY)}
    learning, rest = (sum(4 * x.size for x in part.values()) for part in (params, used))
    batch = 8 * 64 * 64 * 4
    assert abs(cost.memory.arguments - (3 * learning + rest + batch)) < 0.02 * cost.memory.arguments
    assert cost.memory.aliased >= 3 * learning
    assert plan.hours == pytest.approx(6 * cost.roofline_seconds / 3600)
    report = plan.report()
    assert "fits" in report
    assert "8 images a step" in report
    assert "8 clips a step" in dataclasses.replace(plan, unit="clip").report()


def test_the_step_has_no_backward_of_the_encoder(config):
    """FLOPs of the program: five encoder forwards and three times the rest, within 15 percent."""
    skeleton = make_skeleton(config, get_config(config.model.name), REFINER)
    params, frozen = skeleton.shapes()
    images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.uint8)
    truth = jax.ShapeDtypeStruct((8, 64, 64), jnp.float32)

    def encode(params, frozen, images):
        return skeleton.assemble(params, frozen).encode_views(normalise(images.astype("float32") / 255))

    def forward(params, frozen, images, truth):
        keys = prompt_keys(0, 0, 8)
        prompts = sample_prompts(keys.sample, truth, config.prompts, mask_size=16)
        return predict(skeleton.assemble(params, frozen), config, images, truth, prompts, keys).losses

    def flops(lowered) -> float:
        return lowered.cost_analysis()["flops"]

    encoder = flops(jax.jit(encode).lower(params, frozen, images))
    rest = flops(jax.jit(forward).lower(params, frozen, images, truth)) - encoder
    step = flops(lower_step(config, 6, make_mesh(devices=jax.devices()[:1])))
    assert encoder < step <= 1.15 * (encoder + 3 * rest)


def test_the_steps_costs_are_those_that_were_stored(config):
    """What doubles one of them has made training slower on pods: mend it, or say why and store it here."""
    pytest.importorskip("libtpu")
    cost = plan_run(config, "v5e:2x2").cost
    assert cost is not None
    found = cost.flops, cost.bytes_accessed, float(cost.off_chip_bytes), cost.estimated_seconds
    assert found == pytest.approx((22.1e6, 82.5e6, 0.542e6, 0.758e-3), rel=0.2)
    assert [(c.kind, c.group_size, c.count) for c in cost.collectives] == [("all-reduce", 4, 1)]
    assert cost.collectives[0].bytes == pytest.approx(12_296, rel=0.2)


@pytest.mark.slow
def test_devices_add_up_the_gradients_of_clips_once_and_send_nothing_else(tmp_path):
    """Else what they send grows with their number: each would be sent the features of all images."""
    pytest.importorskip("libtpu")
    config = clip_config(tmp_path, batch_size=4, data={"images": 8})
    params, _ = make_skeleton(config, get_config(config.model.name), None).shapes()
    cost = plan_run(config, "v5e:2x2").cost
    assert cost is not None
    assert {(c.kind, c.group_size) for c in cost.collectives} == {("all-reduce", 4)}
    gradients = 4 * sum(x.size for x in params.values())
    assert sum(c.bytes for c in cost.collectives) == pytest.approx(gradients, rel=0.01)


def test_the_papers_recipe_is_twenty_epochs():
    assert RECIPES["hqseg44k"].config.total_steps() == 27_700
    assert dataclasses.replace(RECIPES["hqseg44k"].config, batch_size=256).total_steps() == 3_462
    with pytest.raises(ValueError, match=r"steps, or data.images to go with epochs, must be given"):
        dataclasses.replace(RECIPES["hqseg44k"].config, data=DataConfig()).total_steps()


def test_bad_topologies(config):
    for topology in ("v4:2x2", "v5e:4", "v5e:4by4", "cpu:0", "cpu:x"):
        with pytest.raises(ValueError, match="topology must"):
            plan_run(config, topology)
    with pytest.raises(ValueError, match="chip must be one of v5e, v5p, v6e, got 'v1'"):
        plan_run(config, "cpu:1", chip="v1")
    pytest.importorskip("libtpu")
    with pytest.raises(ValueError, match="batch_size must be a multiple of chips x accumulate = 16 x 1, got 8"):
        plan_run(config, "v5e:4x4")
