"""The step from clips: its gradients beside PyTorch's of the official modules, and that it is what tracking does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from official import build_official, ours_of_few_blocks, randomise, relative_error
from training import TINY
from videos import disk, moving_frames

from sam2refiner_jax import build_model
from sam2refiner_jax.convert.naming import official_key, our_layout, torch_axes
from sam2refiner_jax.nn.prompt_encoder import ABSENT, BOX_END, BOX_START, NOT_A_POINT, POSITIVE, Prompts
from sam2refiner_jax.nn.weights import part_of
from sam2refiner_jax.refiners import SAM2RefinerConfig
from sam2refiner_jax.train.clip_step import ClipPart, _encode, clip_losses, clip_part, corrected_frames
from sam2refiner_jax.train.config import LossConfig, ModelConfig, PromptConfig, TrainConfig
from sam2refiner_jax.train.prompt_sampling import prompt_keys

NAME, SIZE, FRAMES = "sam2.1_hiera_t", 128, 3
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
LOSS = LossConfig(final=0.0, auxiliary=0.0, focal=20.0, dice=1.0, iou=1.0, object_score=1.0)
CONFIG = TrainConfig(
    model=ModelConfig(NAME, refiner=None, dtype="float32"),
    loss=LOSS,
    prompts=PromptConfig(corrections=0),
)
# With this the score of one prompted frame is negative, and those of all others are positive.
SCORE_BIAS = 0.1035
SCENES = (18, 28)
BOX, CLICK = [[12.0, 40.0], [60.0, 90.0]], [80.0, 50.0]


@pytest.fixture(scope="module")
def official():
    """In training mode, but without dropout, every parameter random."""
    official = build_official(NAME, few_blocks=True, image_size=SIZE)
    randomise(official, 6)
    with torch.no_grad():
        official.sam_mask_decoder.pred_obj_score_head.layers[-1].bias += SCORE_BIAS
    official.train()
    for module in official.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_p"):
            module.dropout_p = 0.0
    official.image_encoder.trunk.requires_grad_(False)
    return official


@pytest.fixture(scope="module")
def model(official):
    return ours_of_few_blocks(official, NAME, SIZE)


@pytest.fixture(scope="module")
def part() -> ClipPart:
    """One clip with three objects: one begins with its mask, one with a box, one with a click; one is gone at last."""
    images = np.stack(moving_frames(FRAMES, SIZE, SIZE, seed=3))
    y, x = np.mgrid[:SIZE, :SIZE]
    truth = np.stack(
        [
            [disk(i, SIZE, SIZE) for i in range(FRAMES)],
            [(abs(x - 36 - 4 * i) < 24) & (abs(y - 65) < 25) for i in range(FRAMES)],
            [(abs(x - 83) < 20) & (abs(y - 50 - 9 * i) < 20) & (i < 2) for i in range(FRAMES)],
        ]
    )
    prompts = Prompts(
        points=jnp.array([np.zeros((3, 2)), [*BOX, [0.0, 0.0]], [CLICK, [0.0, 0.0], [0.0, 0.0]]], jnp.float32),
        labels=jnp.array([[ABSENT] * 3, [BOX_START, BOX_END, NOT_A_POINT], [POSITIVE, ABSENT, NOT_A_POINT]], jnp.int32),
        mask=jnp.zeros((3, SIZE // 4, SIZE // 4)),
        has_mask=jnp.array([True, False, False]),
    )
    return ClipPart(
        images=jnp.asarray(images[None]),
        truth=jnp.asarray(truth.astype(np.uint8) * 255),
        visible=jnp.asarray(truth.any(axis=(2, 3))),
        share=jnp.full(3, 1 / 3),
        prompts=prompts,
        keys=prompt_keys(0, 0, 3),
        corrected=jnp.array([[True, False, False]]),
    )


def official_losses(official, part: ClipPart) -> torch.Tensor:
    """What the objects' masks cost, averaged over objects, by the official modules and the official recipe."""
    images = torch.from_numpy(np.array(part.images[0])).permute(0, 3, 1, 2).float() / 255
    frames = [official.forward_image((image[None] - MEAN) / STD) for image in images]
    return sum(official_loss(official, part, frames, row) for row in range(3)) / 3


def official_loss(official, part: ClipPart, frames: list[dict], row: int) -> torch.Tensor:
    """One object's."""
    truth = torch.from_numpy(np.array(part.truth[row]) > 127).float()
    outputs: dict[str, dict[int, dict]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    losses = []
    for frame, backbone in enumerate(frames):
        _, features, places, sizes = official._prepare_backbone_features(backbone)
        first, points, mask = frame == 0, None, None
        if first and row == 0:
            mask = truth[:1][None]
        elif first:
            coords, labels = (BOX, [2, 3]) if row == 1 else ([CLICK], [1])
            points = {"point_coords": torch.tensor([coords]), "point_labels": torch.tensor([labels]).int()}
        current, heads, _, _ = official._track_step(
            frame, first, features, places, sizes, points, mask, outputs, FRAMES, False, None
        )
        _, multimasks, ious, _, chosen, pointer, score = heads
        official._encode_memory_in_output(features, sizes, points, True, chosen, score, current)
        current["obj_ptr"] = pointer
        outputs["cond_frame_outputs" if first else "non_cond_frame_outputs"][frame] = current
        if mask is None:
            losses.append(recipe(multimasks, ious, score, truth[frame]))
        official.scores.append(float(score.detach()))
    return sum(losses)


def recipe(masks, ious, score, truth) -> torch.Tensor:
    """Focal 20, Dice 1, IoU L1 1 and score BCE 1, with the masks of the best of three."""
    target = truth.expand_as(masks)
    there = truth.any().float()
    p = masks.sigmoid()
    cross = torch.nn.functional.binary_cross_entropy_with_logits(masks, target, reduction="none")
    right = p * target + (1 - p) * (1 - target)
    focal = ((0.25 * target + 0.75 * (1 - target)) * cross * (1 - right) ** 2).flatten(2).mean(-1)
    dice = 1 - (2 * (p * target).flatten(2).sum(-1) + 1) / (p.flatten(2).sum(-1) + target.flatten(2).sum(-1) + 1)
    actual = ((masks > 0) & (target > 0.5)).flatten(2).sum(-1)
    actual = actual / ((masks > 0) | (target > 0.5)).flatten(2).sum(-1).clamp(min=1)
    best = (20 * focal + dice)[0].argmin()
    mask_losses = (20 * focal + dice)[0, best] + (ious - actual.detach()).abs().mean()
    return mask_losses * there + torch.nn.functional.binary_cross_entropy_with_logits(score[0, 0], there)


def gradient_function(model, config=CONFIG, scan=jax.lax.scan):
    """From clips to the losses and a gradient for each parameter by its dotted path, and the parameters' parts.

    The trunk's parameters are left out: compiling their gradients takes longest, and photos test them.
    """
    graph, state = nnx.split(model)
    flat = {".".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)}
    params = {n: v[...] for n, (_, v) in flat.items() if isinstance(v, nnx.Param) and part_of(v) != "trunk"}

    @jax.jit
    def both(params, part):
        def loss(params):
            variables = [(path, v.replace(params[n]) if n in params else v) for n, (path, v) in flat.items()]
            losses = clip_losses(nnx.merge(graph, nnx.from_flat_state(variables)), config, part, scan)
            return sum(losses.values()), losses

        (_, losses), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return losses, gradients

    parts = {name: part_of(v) or "none" for name, (_, v) in flat.items() if name in params}
    return lambda part: jax.tree.map(np.asarray, both(params, part)), parts


@pytest.mark.slow
def test_gradients_are_those_of_pytorch(official, model, part):
    """Of every parameter but the trunk's, in the better of two scenes: a ReLU's input may be next to zero in one.

    Only what no model computes with has no gradient, and the biases of keys in plain attention, which change nothing.
    """
    function, parts = gradient_function(model)
    weights = {".".join(map(str, path)): v for path, v in nnx.to_flat_state(nnx.state(model))}
    references = dict(official.named_parameters())
    errors: dict[str, list[float]] = {}
    for seed in SCENES:
        images = np.stack(moving_frames(FRAMES, SIZE, SIZE, seed=seed))[None]
        scene = dataclasses.replace(part, images=jnp.asarray(images))
        losses, gradients = function(scene)
        official.zero_grad()
        official.scores = []
        total = official_losses(official, scene)
        total.backward()
        assert min(official.scores) < 0 < max(official.scores)  # both sides of what is done with absent objects
        np.testing.assert_allclose(float(sum(losses.values())), total.item(), rtol=1e-5)
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        for name, gradient in gradients.items():
            if name == "no_mem_pos_enc":
                assert not gradient.any()
            elif name.startswith("sam_mask_decoder.transformer.") and name.endswith(".k_proj.bias"):
                assert np.linalg.norm(gradient) < 1e-6 * norm, name
            else:
                expected = our_layout(references[official_key(name)].grad.numpy(), torch_axes(name, weights[name]))
                seen = errors.setdefault(name, [])
                if expected.any():
                    seen.append(relative_error(gradient, expected))
                else:  # of a mask that never was the best of three
                    assert not gradient.any(), name
    least = {name: min(each) for name, each in errors.items() if each}
    of_memory = {name: error for name, error in least.items() if parts[name].startswith("memory")}
    for which in (of_memory, least):
        worst = max(which, key=which.__getitem__)
        print(f"gradients of {len(which)} tensors: at most {which[worst]:.1e} from PyTorch's ({worst})")
    assert len(of_memory) == sum(part.startswith("memory") for part in parts.values())
    assert max(least.values()) <= 1e-4


def unrolled(step, carry, xs):
    """`jax.lax.scan` as a loop of Python."""
    results = []
    leaves, structure = jax.tree.flatten(xs)
    for each in zip(*leaves, strict=True):
        carry, result = step(carry, jax.tree.unflatten(structure, each))
        results.append(result)
    return carry, jax.tree.map(lambda *each: jnp.stack(each), *results)


def clips_with_corrections(frames: int) -> tuple[nnx.Module, TrainConfig, ClipPart]:
    """A model of few weights, and two clips of which every second frame gets clicks on errors."""
    model, size = build_model(TINY, seed=1), 64
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.set_value(jnp.ones(1))
    batch = jax.tree.map(jnp.asarray, clip_batch(clips=2, frames=frames, size=size))
    config = dataclasses.replace(CONFIG, prompts=PromptConfig(corrections=2, max_points=1))
    part = clip_part(config, size // 4, jnp.int32(0), batch)
    return (
        model,
        config,
        dataclasses.replace(part, corrected=jnp.broadcast_to(jnp.arange(frames) % 2 == 0, (2, frames))),
    )


@pytest.mark.slow
def test_the_scan_is_the_loop_unrolled():
    """With clicks on errors in the first frame and in another one."""
    model, config, part = clips_with_corrections(frames=3)
    graph, state = nnx.split(model)

    def losses_of(config, scan=jax.lax.scan):
        compiled = jax.jit(lambda state, part: clip_losses(nnx.merge(graph, state), config, part, scan))
        return jax.tree.map(float, compiled(state, part))

    losses = losses_of(config)
    assert losses == pytest.approx(losses_of(config, unrolled), rel=1e-5)
    fewer = losses_of(dataclasses.replace(config, prompts=dataclasses.replace(config.prompts, corrections=0)))
    assert sum(fewer.values()) < 0.8 * sum(losses.values())  # every click has its losses


@pytest.mark.slow
def test_gradients_of_the_scan_are_those_of_the_loop_unrolled():
    model, config, part = clips_with_corrections(frames=4)
    _, gradients = gradient_function(model, config)[0](part)
    _, others = gradient_function(model, config, unrolled)[0](part)
    distance = np.sqrt(sum(((gradients[name] - others[name]) ** 2).sum() for name in gradients))
    assert distance <= 1e-4 * np.sqrt(sum((others[name] ** 2).sum() for name in gradients))


def clip_batch(clips: int, frames: int, size: int, objects: int = 2) -> dict[str, np.ndarray]:
    """Noise with bright boxes that move; the last object of every second clip does not exist."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 120, (clips, frames, size, size, 3), np.uint8)
    mask = np.zeros((clips, frames, size, size, objects), np.uint8)
    for clip in range(clips):
        for number in range(objects - clip % 2):
            for frame in range(frames):
                x, y = 4 + 30 * number + 2 * frame, 8 + 3 * frame + clip
                image[clip, frame, y : y + 24, x : x + 22] = 150 + 50 * number
                mask[clip, frame, y : y + 24, x : x + 22, number] = 255
    return {"image": image, "mask": mask, "visible": mask.any(axis=(2, 3))}


def test_a_frozen_encoder_runs_once_for_a_refiner_that_learns():
    """FLOPs of the program: what is computed again for the backward pass is the refiner's part of encoding."""
    model = build_model(TINY, refiner=SAM2RefinerConfig(True, False, block_dims=(16, 8, 8), upscale_dims=(8, 8)))
    graph, learns, frozen = nnx.split(model, lambda path, _: path[0] == "refiner", ...)
    images = jnp.zeros((1, 2, 64, 64, 3), jnp.uint8)

    def encode(learns):
        features, _ = _encode(nnx.merge(graph, learns, frozen), images)
        return sum((x**2).sum() for x in features)

    def flops(function) -> float:
        return jax.jit(function).lower(learns).cost_analysis()["flops"]

    assert flops(jax.grad(encode)) < 1.3 * flops(encode)


def test_which_frames_are_corrected():
    """The first always, and up to one of the others, each of which has its turn."""
    found = np.stack([corrected_frames(3, step, 8, 2) for step in range(60)])
    assert found[:, 0].all()
    assert {*found[:, 1:].sum(axis=1)} == {0, 1}
    assert found[:, 1:].any(axis=0).all()
    assert 0.25 < found[:, 1:].any(axis=1).mean() < 0.75
    np.testing.assert_array_equal(corrected_frames(3, 0, 1, 2), [True])
    np.testing.assert_array_equal(corrected_frames(3, 0, 4, 1), [True, False, False, False])
