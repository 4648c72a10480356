"""The training step: a pure function from state and batch to the next state, for any mesh."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, UInt8

from ..image.preprocess import normalise
from ..nn.mask_decoder import DecoderOutput, select_single_mask
from ..nn.prompt_encoder import Prompts
from ..nn.resize import resize_planes
from ..refiners.base import Refined
from ..sam2 import SAM2
from .blend_losses import blend_losses
from .clip_step import ClipPart, clip_losses, clip_part
from .config import OptimizerConfig, PromptConfig, TrainConfig
from .losses import coarse_losses, mask_iou, refined_losses
from .parts import rates_of
from .prompt_sampling import (
    PromptKeys,
    bounding_box,
    correct_prompts,
    correction_keys,
    divide_objects,
    prompt_keys,
    sample_prompts,
)
from .sharding import batch_sharding, replicated, weight_sharding
from .skeleton import Skeleton

__all__ = [
    "EXACT_BOXES",
    "TrainState",
    "batch_shapes",
    "check_batch",
    "compile_train_step",
    "initial_state",
    "make_eval_step",
    "make_optimizer",
    "make_train_step",
    "predict",
    "state_shardings",
]

# Arrays by name, weights by their dotted paths; shapes or shardings take the arrays' places where a step is planned.
Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes.

    Attributes:
      step: number of steps done, an int32 scalar.
      params: the weights that learn.
      moments: the optimizer's state.
      average: their exponential moving average; None without one.
      broken: int32 scalar, number of the first step whose loss, gradient or update was not finite; -1 if there is none.
        From then on the weights stay as they are.
    """

    step: Tree
    params: Tree
    moments: Tree
    average: Tree
    broken: Tree

    @property
    def best_params(self) -> Tree:
        """The weights to use: the average, if there is one."""
        return self.params if self.average is None else self.average


def make_optimizer(
    config: OptimizerConfig, steps: int, decaying: Collection[str] = (), rates: Mapping[str, float] | None = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW behind a gradient clip, and its learning rate by step.

    Args:
      config: the optimizer's.
      steps: of the whole run.
      decaying: the paths of the weights that decay; they change no state.
      rates: learning rates of weights by their paths, relative to the others'; they change no state either.
    """
    warmup = min(config.warmup_steps, steps // 2)
    first = config.learning_rate / (1 + warmup)
    if config.drops:
        drops = {round(drop * steps) - warmup: 0.1 for drop in config.drops}
        schedule = optax.join_schedules(
            [
                optax.linear_schedule(first, config.learning_rate, warmup),
                optax.piecewise_constant_schedule(config.learning_rate, drops),
            ],
            [warmup],
        )
    else:
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=first,
            peak_value=config.learning_rate,
            warmup_steps=warmup,
            decay_steps=steps,
            end_value=config.learning_rate * config.final_learning_rate,
        )

    def decays(params):
        return {name: name in decaying for name in params}

    def at_their_rates(updates, params):
        return {name: update * (rates or {}).get(name, 1.0) for name, update in updates.items()}

    steps_of_optimizer = [
        optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, config.beta1, config.beta2, weight_decay=config.weight_decay, mask=decays),
    ]
    if config.layer_decay != 1 or config.encoder_rate != 1:
        steps_of_optimizer.append(optax.stateless(at_their_rates))
    return optax.chain(*steps_of_optimizer), schedule


def initial_state(params: Tree, config: OptimizerConfig, steps: int) -> TrainState:
    """The state before the first step; also of abstract params, under `jax.eval_shape`."""
    optimizer, _ = make_optimizer(config, steps)
    average = None if config.ema is None else jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, optimizer.init(params), average, jnp.int32(-1))


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """The sharding of each array of a (possibly abstract) state."""
    return jax.tree.map(lambda x: weight_sharding(mesh, x.shape), state)


def objects_of(batch: Mapping[str, Array]) -> Float[Array, "n s s"]:
    """The coverage of the objects of a batch, those of an image one after the other."""
    masks = batch["mask"].astype(jnp.float32) / 255
    return masks if masks.ndim == 3 else jnp.moveaxis(masks, -1, 1).reshape(-1, *masks.shape[1:3])


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model makes of objects in a batch: the loss's parts, and masks to look at."""

    losses: dict[str, Float[Array, ""]]
    prompts: Prompts
    coarse: Float[Array, "n m m"]
    refined: Float[Array, "n s s"] | None


def predict(
    model: SAM2,
    config: TrainConfig,
    images: UInt8[Array, "b s s 3"],
    truth: Float[Array, "n s s"],
    prompts: Prompts,
    keys: PromptKeys,
) -> Prediction:
    """Masks and losses of n / b objects in each image, those of an image one after the other.

    What depends on no weight that learns, such as the features of a frozen encoder, is not differentiated.

    Args:
      model: of all weights.
      config: the run.
      images: of the model's input size.
      truth: the objects' coverage in [0, 1].
      prompts: with slots to spare for the corrections.
      keys: a key for each object, for its corrections and for where its mask is looked at.
    """
    normalised = normalise(images.astype(jnp.float32) / 255)
    if model.refiner is None:
        features, views = model.encode_image(normalised), None
    else:
        features, views = model.encode_views(normalised)
    if model.refiner is not None:
        features = model.prepare(normalised, features, views)
    embedding = model.augment(model.image_embedding(features), features)
    if len(truth) > len(images):
        embedding, features = jax.tree.map(
            lambda x: jnp.repeat(x, len(truth) // len(images), axis=0), (embedding, features)
        )
    loss = config.loss
    losses: dict[str, Float[Array, ""]] = {}

    def add(parts):
        for name, value in parts.items():
            losses[name] = losses.get(name, 0.0) + value / (1 + config.prompts.corrections)

    def decode(prompts) -> tuple[DecoderOutput, Float[Array, "b m m"]]:
        output = model.decode(embedding, features, prompts, with_refiner=True)
        if loss.coarse:
            add(coarse_losses(output, truth, loss))
        return output, select_single_mask(output, model.config)[0][:, 0]

    def refine(output, coarse, prompts, carry) -> Refined | None:
        if model.refiner is None:
            return None
        result = model.refine(features, output, coarse, prompts, carry)
        if loss.blends:
            if not result.blends:
                raise ValueError("loss.blends must be 0 for a refiner that blends nothing")
            add({"blends": loss.blends * blend_losses(result.blends, truth, loss.error_target)})
        return result

    # Refiners without anything to carry from click to click are asked once, at the end.
    by_click = model.refiner is not None and bool(jax.tree.leaves(model.refiner.initial_carry(1)))
    rounds = correction_keys(keys.correct, config.prompts)
    output, coarse = decode(prompts)
    carry = None
    for number, round_keys in enumerate(rounds):
        shown = None
        if by_click:
            result = refine(output, coarse, prompts, carry)
            assert result is not None
            carry, shown = jax.lax.stop_gradient((result.carry, result.masks))
        prompts = correct_prompts(round_keys, prompts, number, len(rounds), jax.lax.stop_gradient(coarse), truth, shown)
        output, coarse = decode(prompts)
    result = refine(output, coarse, prompts, carry)
    refined = None
    if result is not None:
        losses |= refined_losses(result, truth, loss, keys.look)
        refined = result.masks
        if refined.shape != truth.shape:
            refined = resize_planes(refined, truth.shape[-2:])
    return Prediction(losses, prompts, coarse, refined)


def check_batch(config: TrainConfig, mesh: Mesh, devices: str) -> None:
    """Raises a ValueError, which calls the mesh's devices `devices`, unless they divide every part of a batch."""
    if config.batch_size % (mesh.size * config.accumulate):
        raise ValueError(
            f"batch_size must be a multiple of {devices} x accumulate = {mesh.size} x {config.accumulate}, "
            f"got {config.batch_size}"
        )


def batch_shapes(
    skeleton: Skeleton, config: TrainConfig, mesh: Mesh, frames: int | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, types and shardings of the batch that a step takes; `frames` are of its clips, if not `data.frames`."""
    s, rows = skeleton.config.image_size, batch_sharding(mesh)
    frames, objects = config.data.frames if frames is None else frames, config.data.objects
    b = config.batch_size * (config.data.photos_per_clip if frames == 1 else 1)

    def shape(*sides: int, dtype=jnp.uint8):
        return jax.ShapeDtypeStruct((b, *sides), dtype, sharding=rows)

    if frames:
        return {
            "image": shape(frames, s, s, 3),
            "mask": shape(frames, s, s, objects),
            "visible": shape(frames, objects, dtype=jnp.bool_),
        }
    return {"image": shape(s, s, 3), "mask": shape(s, s) if objects == 1 else shape(s, s, objects)}


def make_train_step(
    skeleton: Skeleton, config: TrainConfig, steps: int, mesh: Mesh
) -> Callable[[TrainState, Tree, Mapping[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The step, not compiled yet: (state, frozen weights, batch) -> (next state, scalars for the log).

    The batch's images are uint8 (b, s, s, 3), its masks uint8 coverage (b, s, s), or (b, s, s, n) of n objects in each
    image; a batch with an axis of frames is one of clips (`clip_step`). All that is random comes from the seed and the
    number of the step. `jax.jit` it with the state donated (`compile_train_step`).
    """
    rates = rates_of(skeleton, config.optimizer)
    optimizer, schedule = make_optimizer(config.optimizer, steps, skeleton.decaying, rates)

    def prompted(step, batch):
        """What is learned from in this step: of clips, or images, truth, prompts and keys of photos."""
        if batch["image"].ndim == 5:
            return clip_part(config, skeleton.config.mask_size, step, batch)
        truth = objects_of(batch)
        keys = prompt_keys(config.seed, step, len(truth))
        prompts = sample_prompts(keys.sample, truth, config.prompts, mask_size=skeleton.config.mask_size)
        prompts, truth = divide_objects(keys.divide, prompts, truth, config.prompts)
        return batch["image"], truth, prompts, keys

    def loss_of(params, frozen, part):
        model = skeleton.assemble(params, frozen)
        losses = (
            clip_losses(model, config, part) if isinstance(part, ClipPart) else predict(model, config, *part).losses
        )
        return sum(losses.values()), losses

    def gradients_of(params, frozen, part):
        (loss, parts), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, frozen, part)
        return {"loss": loss, **parts}, gradients

    def gradients_on_devices(params, frozen, part):
        """Of clips, each device's of its own, and their sum at the end.

        Otherwise devices would send each other the features that objects take by their image, the more the more devices
        there are, and add up the gradients of weights after every frame.
        """
        if not isinstance(part, ClipPart):
            return gradients_of(params, frozen, part)

        def of_own(params, frozen, part):
            return jax.lax.psum(gradients_of(params, frozen, part), mesh.axis_names)

        whole, own = PartitionSpec(), batch_sharding(mesh).spec
        mapped = jax.shard_map(of_own, mesh=mesh, in_specs=(whole, whole, own), out_specs=whole, check_vma=False)
        return mapped(params, frozen, part)

    def accumulated(params, frozen, batch):
        images = len(batch.images if isinstance(batch, ClipPart) else batch[0])

        def cut(x):  # Part i has images i, i + parts, ... with all their objects, so that each is on all devices.
            objects = len(x) // images
            parts = x.reshape(-1, config.accumulate, objects, *x.shape[1:]).swapaxes(0, 1)
            return parts.reshape(config.accumulate, -1, *x.shape[1:])

        leaves, tree = jax.tree.flatten(batch)

        def gradients(part):
            part = jax.lax.with_sharding_constraint(part, batch_sharding(mesh))
            return gradients_on_devices(params, frozen, jax.tree.unflatten(tree, part))

        def add(total, part):
            return jax.tree.map(lambda a, b: a + b / config.accumulate, total, gradients(part)), None

        parts = [cut(x) for x in leaves]
        shapes = jax.eval_shape(gradients, [x[0] for x in parts])
        return jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), parts)[0]

    def step(state: TrainState, frozen: Tree, batch: Mapping[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        gradients_by = gradients_on_devices if config.accumulate == 1 else accumulated
        scalars, gradients = gradients_by(state.params, frozen, prompted(state.step, batch))
        norm = optax.tree.norm(gradients)
        updates, moments = optimizer.update(gradients, state.moments, state.params)
        # Decay alone would shrink a weight that no loss has reached yet.
        means = optax.tree.get(moments, "mu")
        updates = {name: jnp.where(means[name].any(), update, 0) for name, update in updates.items()}
        finite = jnp.isfinite(scalars["loss"]) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(updates))
        good = finite & (state.broken < 0)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None and config.optimizer.ema is not None:
            # Early on the average is over few steps, so that it does not drag the initial weights along.
            decay = jnp.minimum(config.optimizer.ema, (1 + state.step) / (10 + state.step))
            average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        new = TrainState(state.step + 1, params, moments, average, state.broken)
        bad = dataclasses.replace(state, broken=jnp.where(state.broken < 0, state.step, state.broken))
        new = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, bad)
        return new, {**scalars, "gradient_norm": norm, "learning_rate": schedule(state.step)}

    return step


def compile_train_step(step: Callable, state: TrainState, mesh: Mesh) -> Any:
    """`jax.jit` of `make_train_step`'s result: state donated, everything laid out for the mesh.

    To be called under `jax.set_mesh(mesh)`, by which the kernels of attention find the devices that they run on.
    """
    shardings = state_shardings(state, mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))


EXACT_BOXES = PromptConfig(box=1.0, points=0.0, mask=0.0, box_noise=0.0, max_points=1)


def make_eval_step(
    skeleton: Skeleton, config: TrainConfig, prompts: PromptConfig = EXACT_BOXES, shown: int = 4
) -> Callable[..., dict[str, Array]]:
    """(params, frozen, batch) -> how good the masks from prompts are, and some of them to look at.

    Not compiled yet. `coarse_iou` and `refined_iou` have a value for each image; `image`, `truth`, `box` (corners of
    the object), `coarse` and `refined` (logits at the input's size) are of the first `shown` images. Without a refiner
    nothing is refined.

    Args:
      skeleton: the model.
      config: the run.
      prompts: the mix of prompts, the same for an image every time; by default exact boxes.
      shown: how many images to give back.
    """
    exact = dataclasses.replace(config, prompts=prompts)

    def evaluate(params: Tree, frozen: Tree, batch: Mapping[str, Array]) -> dict[str, Array]:
        truth = objects_of(batch)
        keys = prompt_keys(0, 0, len(truth))
        given = sample_prompts(keys.sample, truth, prompts, mask_size=skeleton.config.mask_size)
        model = skeleton.assemble(params, frozen)
        prediction = predict(model, exact, batch["image"], truth, given, keys)
        coarse = resize_planes(prediction.coarse, truth.shape[-2:])
        boxes = jax.vmap(bounding_box)(truth > 0.5)
        rows = {"image": batch["image"], "truth": truth, "box": boxes, "coarse": coarse}
        out = {"coarse_iou": mask_iou(coarse, truth)}
        if prediction.refined is not None:
            rows["refined"] = prediction.refined
            out["refined_iou"] = mask_iou(prediction.refined, truth)
        return out | {name: x[:shown] for name, x in rows.items()}

    return evaluate
