"""The training step on a tiny model: what learns, and that cutting up a step does not change it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh
from training import REFINER, TINY, tiny_config

from sam2refiner_jax import build_model
from sam2refiner_jax.config import get_config
from sam2refiner_jax.train.config import DataConfig, LossConfig, ModelConfig, OptimizerConfig, PromptConfig, TrainConfig
from sam2refiner_jax.train.loop import place
from sam2refiner_jax.train.parts import MEMORY_PARTS, PARTS, make_skeleton, rates_of, starting_model
from sam2refiner_jax.train.sharding import SMALLEST_SHARDED, global_batch, make_mesh, weight_sharding
from sam2refiner_jax.train.skeleton import describe_parts, take_apart
from sam2refiner_jax.train.step import compile_train_step, make_eval_step, make_optimizer, make_train_step

# Where the weights of the parts that photos teach lie; the weights themselves say their part.
BEGINNINGS = {
    "refiner": ("refiner.",),
    "decoder": ("sam_mask_decoder.",),
    "object_score": ("sam_mask_decoder.pred_obj_score_head.",),
    "prompt_encoder": ("sam_prompt_encoder.",),
    "trunk": ("image_encoder.trunk.",),
    "neck": ("image_encoder.neck.", "no_mem_embed"),
}
PHOTOS_TEACH = sum(BEGINNINGS.values(), ())
BEGINNINGS |= {
    "encoder": BEGINNINGS["trunk"] + BEGINNINGS["neck"],
    "memory_attention": ("memory_attention.", "maskmem_tpos_enc", "obj_ptr_tpos_proj."),
    "memory_encoder": ("memory_encoder.", "mask_downsample.", "obj_ptr_proj.", "no_obj_"),
}
BEGINNINGS["memory"] = BEGINNINGS["memory_attention"] + BEGINNINGS["memory_encoder"]
CLIPS = {
    "data": DataConfig(frames=3, objects=2),
    "loss": LossConfig(final=0.0, auxiliary=0.0, focal=20.0, dice=1.0, iou=1.0, object_score=1.0),
}


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.zeros((8, 64, 64), np.uint8)
    for i in range(8):
        mask[i, 10 + i : 40 + i, 8 : 30 + 2 * i] = 255
    return {"image": rng.integers(0, 255, (8, 64, 64, 3), np.uint8), "mask": mask}


@functools.cache
def started(config: TrainConfig, steps: int):
    """What runs of one configuration share: compiling a step takes far longer than anything that is done with it."""
    mesh = make_mesh(config.model_parallel, jax.devices()[:1])
    model = starting_model(config.model, config.seed)
    skeleton = make_skeleton(config, model.config, None if model.refiner is None else model.refiner.config)
    state, frozen = place(model, skeleton, config, steps, mesh)
    step = compile_train_step(make_train_step(skeleton, config, steps, mesh), state, mesh)
    return mesh, skeleton, state, frozen, step


class Run:
    """A compiled step with its state."""

    def __init__(self, config: TrainConfig, steps: int = 6):
        self.mesh, self.skeleton, state, self.frozen, self.step = started(config, steps)
        # A step gives away the buffers of its state.
        self.state = jax.tree.map(lambda x: jax.device_put(x, x.sharding, may_alias=False), state)

    def __call__(self, batch):
        with jax.set_mesh(self.mesh):
            self.state, scalars = self.step(self.state, self.frozen, global_batch(batch, self.mesh))
        return {name: float(value) for name, value in scalars.items()}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    config = tiny_config(tmp_path_factory.mktemp("data"))
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, ema=0.9, warmup_steps=0))


@pytest.fixture(scope="module")
def run(config) -> Run:
    return Run(config)


@pytest.mark.slow
def test_only_the_named_part_learns(run, config, batch):
    model = build_model(TINY, refiner=REFINER)
    params, frozen = take_apart(model, run.skeleton)
    assert set(params) == {name for name in params if name.startswith("refiner.")}
    assert not any(name.startswith("refiner.") for name in frozen)
    before = jax.tree.map(np.asarray, (run.state.params, run.frozen))
    losses = [run(batch) for _ in range(3)]
    after = jax.tree.map(np.asarray, (run.state.params, run.frozen))
    for name, value in before[0].items():
        assert (after[0][name] != value).any(), name
    for name, value in before[1].items():
        np.testing.assert_array_equal(after[1][name], value)
    for scalars in losses:
        np.testing.assert_allclose(scalars["loss"], scalars["final"] + scalars["auxiliary"], rtol=1e-6)
    assert set(jax.tree.leaves(run.state.moments)[0].devices()) == {jax.devices()[0]}
    moments = [x for x in jax.tree.leaves(run.state.moments) if x.ndim]
    assert len(moments) == 2 * len(params)


@pytest.mark.parametrize(
    "part", ["decoder", *(pytest.param(part, marks=pytest.mark.slow) for part in ("all", "encoder", "prompt_encoder"))]
)
def test_every_weight_of_a_part_learns_in_one_step_and_no_other(part, config, batch):
    """With every kind of prompt; without a loss of theirs, the heads that say how good a mask is do not even decay."""
    judged = part != "decoder"
    changes = {
        "model": dataclasses.replace(config.model, refiner=None),
        "prompts": PromptConfig(mask=2.0, box_and_points=1.0, negative_points=0.5),
        "loss": LossConfig(coarse=1.0, iou=1.0 * judged, object_score=1.0 * judged),
        "optimizer": dataclasses.replace(config.optimizer, weight_decay=0.5, ema=None),
    }
    run = Run(dataclasses.replace(config, trainable=(part,), **changes))
    before = jax.tree.map(np.asarray, {**run.state.params, **run.frozen})
    run(batch)
    after = jax.tree.map(np.asarray, {**run.state.params, **run.frozen})
    changed = {name for name, value in before.items() if (after[name] != value).any()}
    weights = {name for name, _, variable in run.skeleton.variables if isinstance(variable, nnx.Param)}
    beginnings = BEGINNINGS.get(part) or PHOTOS_TEACH
    named = {name for name in weights if name.startswith(beginnings)}
    heads = ("sam_mask_decoder.iou_prediction_head.", "sam_mask_decoder.pred_obj_score_head.")
    learned = {name for name in named if judged or not name.startswith(heads)}
    assert changed == learned, sorted(changed ^ learned)
    assert len(learned) > 10


@pytest.mark.parametrize("part", PARTS)
def test_weights_say_their_part(part, config):
    skeleton = make_skeleton(dataclasses.replace(config, trainable=(part,)), get_config(TINY), REFINER)
    weights = {name for name, _, variable in skeleton.variables if isinstance(variable, nnx.Param)}
    assert skeleton.trainable == {name for name in weights if name.startswith(BEGINNINGS[part])}


def test_the_table_of_parts_counts_every_parameter():
    config = TrainConfig(model=ModelConfig("sam2.1_hiera_t"))
    skeleton = make_skeleton(config, get_config("sam2.1_hiera_t"), config.model.refiner)
    rows = {}
    for line in describe_parts(skeleton, make_mesh(1, jax.devices()[:1])).splitlines()[1:]:
        part, *numbers = line.split()
        rows[part] = [int(number.replace(",", "")) for number in numbers]
    assert {*rows} == {*PARTS, *MEMORY_PARTS, "other", "all"}
    assert rows["all"] == [sum(column) for column in zip(*(rows[part] for part in rows if part != "all"), strict=True)]
    assert not any(row[2] for part, row in rows.items() if part not in ("refiner", "all"))
    _, parameters, learning, held = rows["refiner"]
    assert parameters == learning == held
    assert rows["all"][1] - parameters == 38_962_498  # the official tiny model's
    halved = describe_parts(skeleton, AbstractMesh((1, 2), ("data", "model"))).splitlines()[-1].split()
    assert 0.5 * rows["all"][3] < int(halved[-1].replace(",", "")) < 0.6 * rows["all"][3]


def test_all_is_every_part_that_photos_teach(config):
    base = get_config(TINY)
    every, each = (make_skeleton(dataclasses.replace(config, trainable=t), base, REFINER) for t in (("all",), PARTS))
    assert every.trainable == each.trainable
    weights = {name for name, _, variable in every.variables if isinstance(variable, nnx.Param)}
    assert {name for name in weights if name.startswith(PHOTOS_TEACH)} == every.trainable


def test_average_is_exponential(config, batch):
    """Three steps; the average of the weights by hand, with the step's own weights."""
    run = Run(config)
    name = next(iter(run.state.params))
    average = np.asarray(run.state.params[name])
    for step in range(3):
        run(batch)
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * np.asarray(run.state.params[name])
    np.testing.assert_allclose(run.state.average[name], average, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(run.state.best_params[name], run.state.average[name])


def test_several_objects_of_an_image_are_as_many_images(config, batch):
    """Two objects in each of four images, taken in two parts, equal eight images with one object each at once."""
    data = dataclasses.replace(config.data, objects=2)
    images, masks = batch["image"][:4], batch["mask"].reshape(4, 2, 64, 64)
    single, several = Run(config), Run(dataclasses.replace(config, batch_size=4, data=data, accumulate=2))
    expected = single({"image": images.repeat(2, axis=0), "mask": batch["mask"]})
    scalars = several({"image": images, "mask": masks.transpose(0, 2, 3, 1)})
    for name, value in expected.items():
        np.testing.assert_allclose(scalars[name], value, rtol=2e-5, atol=1e-7, err_msg=name)
    for a, b in zip(*(jax.tree.leaves(r.state.moments) for r in (several, single)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6 + 1e-4 * float(jnp.abs(a).max()))


def test_a_loss_that_is_not_finite_stops_learning(config, batch):
    run = Run(config)
    run(batch)
    name = next(name for name in run.state.params if name.endswith("kernel"))
    run.state.params[name] = run.state.params[name] * np.float32("nan")
    before = jax.tree.map(np.asarray, run.state.params)
    for _ in range(2):
        scalars = run(batch)
    assert not np.isfinite(scalars["loss"])
    assert int(run.state.broken) == 1
    assert int(run.state.step) == 1
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, run.state.params), before)


def test_evaluation_is_of_exact_boxes(run, config, batch):
    out = jax.jit(make_eval_step(run.skeleton, config))(run.state.params, run.frozen, batch)
    assert out["coarse_iou"].shape == out["refined_iou"].shape == (8,)
    assert out["refined"].shape == out["truth"].shape == (4, 64, 64)
    np.testing.assert_array_equal(out["box"][0], [[8, 10], [29, 39]])
    for i in range(4):
        mask, truth = np.asarray(out["refined"][i]) > 0, batch["mask"][i] > 127
        want = (mask & truth).sum() / (mask | truth).sum()
        np.testing.assert_allclose(out["refined_iou"][i], want, rtol=1e-6)


def test_learning_rate_warms_up_and_decays():
    config = TrainConfig().optimizer
    _, schedule = make_optimizer(dataclasses.replace(config, warmup_steps=10, learning_rate=2.0), 110)
    rates = [float(schedule(step)) for step in range(111)]
    np.testing.assert_allclose(rates[:11], np.linspace(2 / 11, 2, 11), rtol=1e-5)
    progress = np.arange(101) / 100
    want = 2 * (0.01 + 0.99 * (1 + np.cos(np.pi * progress)) / 2)
    np.testing.assert_allclose(rates[10:], want, rtol=1e-4)


def test_learning_rate_drops():
    config = OptimizerConfig(warmup_steps=10, learning_rate=2.0, drops=(0.5, 0.75))
    rates = [float(make_optimizer(config, 100)[1](step)) for step in (0, 9, 10, 49, 51, 74, 76, 99)]
    np.testing.assert_allclose(rates, [2 / 11, 2 / 11 + 0.9 * 20 / 11, 2, 2, 0.2, 0.2, 0.02, 0.02], rtol=1e-5)
    with pytest.raises(ValueError, match=r"drops must be shares of the run between 0 and 1, got \(1.5,\)"):
        OptimizerConfig(drops=(1.5,))


def test_kernels_alone_decay(config):
    skeleton = make_skeleton(dataclasses.replace(config, trainable=("all",)), get_config(TINY), REFINER)
    kernels = {name for name, _, _ in skeleton.variables if name.endswith(".kernel")}
    assert skeleton.decaying == kernels
    assert len(kernels) > 50


def test_what_does_not_decay_stays():
    params = {"a.kernel": jnp.ones(3), "a.bias": jnp.ones(3), "norm.scale": jnp.ones(3)}
    config = dataclasses.replace(TrainConfig().optimizer, weight_decay=0.1, warmup_steps=0)
    optimizer, _ = make_optimizer(config, 10, {"a.kernel"})
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    assert float(after["a.kernel"][0]) < 1
    assert float(after["a.bias"][0]) == float(after["norm.scale"][0]) == 1


def test_weights_are_cut_along_their_longest_axis():
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "model"))
    cut = weight_sharding(mesh, (3, 256, 512)).spec
    assert tuple(cut) == (None, None, "model")
    assert tuple(weight_sharding(mesh, (8, SMALLEST_SHARDED // 8 - 4)).spec) == ()
    assert tuple(weight_sharding(mesh, (513, 515)).spec) == ()


def test_unknown_parts():
    base = get_config(TINY)
    config = TrainConfig(trainable=("refiner",), loss=LossConfig(coarse=1.0))
    with pytest.raises(ValueError, match="trainable names 'refiner', of which this model has no weights"):
        make_skeleton(config, base, None)
    with pytest.raises(ValueError, match=r"trainable must be of refiner, decoder.*got 'head'"):
        make_skeleton(dataclasses.replace(config, trainable=("head",)), base, None)


@pytest.mark.parametrize(
    ("fields", "refiner", "message"),
    [
        ({"trainable": ("memory",)}, REFINER, "'memory', which photos do not teach"),
        ({"trainable": ("refiner", "memory")}, REFINER, "'memory', which photos do not teach"),
        ({"trainable": ("memory_encoder",)}, None, "'memory_encoder', which photos do not teach"),
        (
            {"trainable": ("decoder",), "loss": CLIPS["loss"]},
            None,
            r"focal and dice are of clips and must be 0 for photos",
        ),
        (
            {**CLIPS, "loss": LossConfig(), "trainable": ("memory",)},
            None,
            r"loss\.coarse, auxiliary, .* must be 0 for clips",
        ),
        (
            {**CLIPS, "trainable": ("refiner",)},
            REFINER,
            r"loss\.final must not be 0 where the refiner is trained on clips",
        ),
        ({**CLIPS, "prompts": PromptConfig(divided=0.5)}, None, r"prompts\.divided must be 0 for clips"),
        (
            {
                **CLIPS,
                "data": DataConfig(frames=1),
                "prompts": PromptConfig(box=0.0, points=0.0),
                "trainable": ("neck",),
            },
            None,
            "must not be masks alone where clips have one frame",
        ),
        ({"trainable": ()}, REFINER, "trainable must name at least one of refiner, decoder, .*, all, got none"),
        ({"trainable": ("decoder",)}, None, r"without a refiner, loss\.coarse must not be 0"),
        ({"loss": LossConfig(final=0.0, auxiliary=0.0)}, REFINER, "must not all be 0: nothing would be learned"),
        (
            {"loss": LossConfig(final=0.0, auxiliary=0.0, coarse=1.0)},
            REFINER,
            "not all be 0 where the refiner alone is trained",
        ),
    ],
)
def test_what_cannot_learn_is_refused(fields, refiner, message):
    with pytest.raises(ValueError, match=message):
        make_skeleton(TrainConfig(**fields), get_config(TINY), refiner)


@pytest.mark.parametrize("part", ["memory", "memory_attention", "memory_encoder", "trunk"])
def test_clips_teach_the_memory(part):
    config = TrainConfig(trainable=(part,), **CLIPS)
    skeleton = make_skeleton(config, get_config(TINY), None)
    weights = {name for name, _, variable in skeleton.variables if isinstance(variable, nnx.Param)}
    assert skeleton.trainable == {name for name in weights if name.startswith(BEGINNINGS[part])}
    every = make_skeleton(dataclasses.replace(config, trainable=("all",)), get_config(TINY), None)
    assert every.trainable == weights - {"no_mem_pos_enc"}  # which nothing computes with


def test_rates_of_the_trunk_are_the_official_ones():
    """Against the official trunk's own numbering of its layers."""
    from sam2.modeling.backbones.hieradet import Hiera

    base = get_config("sam2.1_hiera_t")
    skeleton = make_skeleton(TrainConfig(trainable=("all",), **CLIPS), base, None)
    rates = rates_of(skeleton, OptimizerConfig(layer_decay=0.9, encoder_rate=0.6))
    official = Hiera(embed_dim=8, num_heads=1, stages=base.trunk.stages, global_att_blocks=())
    layers = official.get_num_layers() + 1
    beginning = "image_encoder.trunk."
    for name, rate in rates.items():
        slowed = name.startswith(beginning) and "pos_embed" not in name
        layer = official.get_layer_id(name.removeprefix(beginning)) if slowed else layers
        assert rate == pytest.approx(0.6 * 0.9 ** (layers - layer)), name
    assert {*rates} == {name for name in skeleton.trainable if name.startswith(BEGINNINGS["encoder"])}
    assert len({*rates.values()}) == sum(base.trunk.stages) + 2


def test_slower_weights_move_less():
    params = {"a.kernel": jnp.ones(3), "b.kernel": jnp.ones(3)}
    config = OptimizerConfig(warmup_steps=0, layer_decay=0.5)
    optimizer, _ = make_optimizer(config, 10, {"a.kernel", "b.kernel"}, {"a.kernel": 0.25})
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["a.kernel"], 0.25 * updates["b.kernel"], rtol=1e-6)
