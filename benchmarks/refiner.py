"""What refiners cost: parameters, GFLOP and milliseconds of a photo and of another click, beside plain SAM 2's.

    python benchmarks/refiner.py --names sam2.1_hiera_t sam2.1_hiera_l
    python benchmarks/refiner.py --parts  # of the paper's refiner, each by itself

GFLOP are XLA's count of the program before optimisation, attention in its plain form. Weights are random, which makes
no difference to either.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from flops import gflop

from sam2refiner_jax import build_model
from sam2refiner_jax.image.encoding import encode_photos
from sam2refiner_jax.image.predictor import decode_prompts, refine_prompts
from sam2refiner_jax.image.prompts import pack_prompts, read_prompts
from sam2refiner_jax.nn.prompt_encoder import Prompts
from sam2refiner_jax.refiners import REFINERS, RefinerInputs


def milliseconds(function, *arguments, repeats: int) -> float:
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def millions(module) -> str:
    return "" if module is None else f"{sum(x.size for x in jax.tree.leaves(nnx.state(module))) / 1e6:.2f}"


def main(
    names: tuple[str, ...] = ("sam2.1_hiera_t",), image_size: int = 1024, repeats: int = 3, parts: bool = False
) -> None:
    """Prints one table for each model.

    Args:
      names: The models.
      image_size: Side of the input in pixels.
      repeats: Runs of each part, of which the median counts.
      parts: The parts of sam2refiner instead of all refiners side by side.
    """
    for name in names:
        (measure_parts if parts else compare)(name, image_size, repeats)


def prompts_for(image_size: int) -> Prompts:
    size = {"photo_size": (image_size, image_size), "image_size": image_size}
    return pack_prompts([read_prompts([[50, 60]], [1], [10, 20, 50, 55], None, **size)], image_size // 4)


def compare(name: str, image_size: int, repeats: int) -> None:
    """Prints the table of all refiners of one model."""
    image = np.random.default_rng(0).normal(size=(1, image_size, image_size, 3)).astype(np.float32)
    index, prompts = np.zeros(1, np.int32), prompts_for(image_size)
    plain = build_model(name, image_size=image_size)
    photos = encode_photos(plain, image)
    once, again = (plain, image), (plain, photos, index, prompts)
    rows = {
        "without": (
            "",
            gflop(encode_photos, *once),
            gflop(decode_prompts, *again),
            milliseconds(decode_prompts, *again, repeats=repeats),
        )
    }
    for kind in REFINERS:
        model = build_model(name, refiner=kind, image_size=image_size)
        photos = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(encode_photos, model, image))
        again = (model, photos, index, prompts, np.bool_(False), model.refiner.initial_carry(1))
        rows[kind] = (
            millions(model.refiner),
            gflop(encode_photos, model, image),
            gflop(refine_prompts, *again),
            milliseconds(refine_prompts, *again, repeats=repeats),
        )
    print(f"\n{name}, {image_size} px, {jax.devices()[0].device_kind}, float32")
    print("| refiner | million parameters | GFLOP a photo | GFLOP a click | ms a click |\n|---|---|---|---|---|")
    for kind, (parameters, photo, click, duration) in rows.items():
        print(f"| {kind} | {parameters} | {photo:.0f} | {click:.1f} | {duration:.0f} |", flush=True)


def measure_parts(name: str, image_size: int, repeats: int) -> None:
    """Prints the table of the parts of sam2refiner on one model."""
    model = build_model(name, refiner="sam2refiner", image_size=image_size)
    refiner, base = model.refiner, model.with_refiner(None)
    image = np.random.default_rng(0).normal(size=(1, image_size, image_size, 3)).astype(np.float32)
    index = np.zeros(1, np.int32)
    prompts = prompts_for(image_size)

    encoded, views = jax.jit(type(model).encode_views)(model, image)
    photos = encode_photos(model, image)
    output = jax.jit(type(model).decode)(model, photos.augmented, photos.features, prompts)
    sparse, exists, _ = model.sam_prompt_encoder(prompts)
    image_pe = model.sam_prompt_encoder.image_encoding()
    inputs = RefinerInputs(photos.features.refiner, output, output.masks[:, 0], prompts, sparse, exists, image_pe)
    stages = encoded.stages[:3]
    skips = inputs.prepared.skips
    augment, retarget, refine = refiner.localization_augment, refiner.prompt_retargeting, refiner.mask_refinement

    def run(module, function, *arguments):
        return millions(module), gflop(function, *arguments), milliseconds(function, *arguments, repeats=repeats)

    rows = {
        "image encoder, one view": run(model.image_encoder, lambda m, x: m.encode_image(x).embedding, base, image),
        "mask decoder": run(model.sam_mask_decoder, decode_prompts, base, photos, index, prompts),
        "LA, once a photo": run(augment, lambda m, v, g: m(g, m.pool(v)), augment, views, encoded.embedding),
        "MR, once a photo": run(None, lambda m, s: m.skips(s), refine, stages),
        "PR, every click": run(retarget, lambda m, x: m(x), retarget, inputs),
        "MR, every click": run(
            refine, lambda m, *x: m(*x).masks, refine, output.image, skips, image, output.masks[:, 0]
        ),
        "photo: five views, LA, MR": run(None, encode_photos, model, image),
        "click: decoder, PR, MR": run(None, refine_prompts, model, photos, index, prompts, np.bool_(False), ()),
    }
    print(f"\n{name}, {image_size} px, {jax.devices()[0].device_kind}, float32")
    print("| part | million parameters | GFLOP | ms |\n|---|---|---|---|")
    for title, (parameters, operations, duration) in rows.items():
        print(f"| {title} | {parameters} | {operations:.1f} | {duration:.0f} |")
    photo, click = (rows[title][2] for title in ("photo: five views, LA, MR", "click: decoder, PR, MR"))
    print(f"another refined click costs {click / photo:.1%} of the encoding it re-uses", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
