"""Is it the base or the refiner? Boxes refined as usual, and with the truth in place of the coarse mask.

    python benchmarks/what_blocks.py SOURCE... [--checkpoint nano] [--refiner DIR] [--count 60] [--image-size 384]

SOURCE is any of evaluation's, such as "folder:DIR". The truth is given as the base would give it, as logits at stride 4
of what share of each cell it covers: "true, upsampled" is the best that a mask of that size can show. Prints mIoU /
mBIoU.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tyro.conf import Positional

from sam2refiner_jax import load_model
from sam2refiner_jax.data.sources import open_source
from sam2refiner_jax.eval.metrics import boundary_iou, iou
from sam2refiner_jax.image.boxes import box_around
from sam2refiner_jax.image.encoding import encode_prepared, prepare_photo
from sam2refiner_jax.image.postprocess import resize_masks
from sam2refiner_jax.image.prompts import pack_prompts, read_prompts
from sam2refiner_jax.nn.mask_decoder import select_single_mask
from sam2refiner_jax.nn.resize import antialiased_matrix

NAMES = ("coarse", "refined", "true, upsampled", "refined from the true one")
# A cell that the object covers is as sure as this.
SURE = 8.0


@jax.jit
def decode_both(model, photos, prompts, truth):
    """The coarse mask, the refined one, and the one refined from the truth."""
    output = model.decode(photos.augmented, photos.features, prompts, with_refiner=True)
    coarse = select_single_mask(output, model.config)[0][:, 0]
    plain = model.decode(photos.embedding, photos.features, prompts)
    fine, from_truth = (model.refine(photos.features, output, mask, prompts).masks for mask in (coarse, truth))
    return select_single_mask(plain, model.config)[0][:, 0], fine, from_truth


def main(
    sources: Positional[tuple[str, ...]],
    checkpoint: str = "nano",
    refiner: Path | None = None,
    count: int = 60,
    image_size: int | None = None,
) -> None:
    """Prints a table."""
    model = load_model(checkpoint, refiner=refiner, image_size=image_size)
    side = model.config.mask_size
    print("| set |", " | ".join(NAMES), "|\n|---|" + "---|" * len(NAMES))
    for source in sources:
        samples, rows = open_source(source), []
        for index in np.unique(np.linspace(0, len(samples) - 1, count).astype(int)):
            sample = samples[int(index)]
            photo, truth = sample["image"], sample["mask"] > 127
            size = truth.shape
            rows_in, columns_in = (antialiased_matrix(n, side) for n in size)
            small = SURE * (2 * (rows_in @ truth.astype(np.float32) @ columns_in.T) - 1)
            box = np.array(box_around(truth), np.float32)
            read = read_prompts(None, None, box, None, photo_size=size, image_size=model.config.image_size)
            photos = encode_prepared(model, [prepare_photo(model, photo)])
            coarse, fine, from_truth = decode_both(model, photos, pack_prompts([read], side), jnp.asarray(small[None]))
            masks = [resize_masks(np.asarray(x), size)[0] > 0 for x in (coarse, fine, small[None], from_truth)]
            rows.append([[measure(mask, truth) for measure in (iou, boundary_iou)] for mask in masks])
        means = 100 * np.mean(rows, axis=0)
        print(f"| {source} |", " | ".join(f"{a:.1f} / {b:.1f}" for a, b in means), "|", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
