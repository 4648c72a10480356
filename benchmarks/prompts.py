"""Whether a model does what clicks say: does a click off the object take away, do clicks on two objects give two masks?

python benchmarks/prompts.py --regions BSDS500 --frames "davis:DAVIS?clips=goat,soapbox&every=15"
"""

import numpy as np
import tyro

from sam2refiner_jax import SAM2ImagePredictor, load_model
from sam2refiner_jax.data.sources import open_source
from sam2refiner_jax.eval.clicks import Click, next_click

# The least share of the photo that an object must cover to be clicked on.
MIN_AREA = 0.02
# Two masks are of two objects if they have at most this IoU.
SAME = 0.5


def main(regions: str, frames: str, checkpoint: str = "nano", limit: int = 100, seed: int = 0) -> None:
    """Prints how often clicks did what they should, for coarse and refined masks.

    Args:
      regions: The folder of BSDS500, of whose validation photos two regions of one annotator are the two objects.
      frames: A source of photos with one object each, to click off.
      checkpoint: What `load_model` reads.
      limit: At most so many photos of each.
      seed: Of the clicks.
    """
    predictor = SAM2ImagePredictor(load_model(checkpoint))
    modes = {"coarse": False} | ({"refined": True} if predictor.model.refiner is not None else {})
    print("| masks | negative click removes | 5 x 5 around it | two clicks, two masks |\n|---|---|---|---|")
    for mode, refine in modes.items():
        removed = np.array(list(negative_clicks(predictor, frames, regions, refine, limit, seed)))
        two = np.array(list(two_objects(predictor, regions, refine, limit, seed)))
        clicks = " | ".join(f"{100 * share:.0f} % of {len(removed)}" for share in removed.mean(axis=0))
        print(f"| {mode} | {clicks} | {100 * two.mean():.0f} % of {len(two)} |", flush=True)


def negative_clicks(predictor, frames: str, regions: str, refine: bool, limit: int, seed: int):
    """For each object: a click on it gives a mask, a negative click at a random place in it must take that away.

    Yields whether the clicked pixel is gone, and the share that is gone of the mask in 5 x 5 pixels around it.
    """
    rng = np.random.default_rng(seed)
    for photo, truth in [*objects(frames, limit), *objects(f"regions:{regions}?split=val&every=53", limit)]:
        predictor.set_image(photo)
        first = centre(truth)
        mask = predict(predictor, [first], refine)
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
        far = mask & (np.hypot(y - first.y, x - first.x) > 0.05 * min(mask.shape))
        if not far.any():
            continue
        y, x = rng.choice(np.argwhere(far))
        after = predict(predictor, [first, Click(int(x), int(y), 0)], refine)
        around = np.s_[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        yield not after[y, x], 1 - after[around][mask[around]].mean()


def two_objects(predictor, regions: str, refine: bool, limit: int, seed: int):
    """For two regions, each clicked: whether each mask holds its own click and not the other, and the masks differ."""
    source = open_source(f"regions:{regions}?split=val&min_area={MIN_AREA}&max_area=0.4")
    by_map: dict[str, list[int]] = {}
    for index, region in enumerate(source.regions):
        by_map.setdefault(region.regions, []).append(index)
    of_photo = {source.regions[indices[0]].image: indices for indices in by_map.values() if len(indices) > 1}
    rng = np.random.default_rng(seed)
    for indices in list(of_photo.values())[:limit]:
        samples = [source[int(index)] for index in rng.choice(indices, 2, replace=False)]
        predictor.set_image(samples[0]["image"])
        clicks = [centre(sample["mask"] > 127) for sample in samples]
        masks = [predict(predictor, [click], refine) for click in clicks]
        holds = np.array([[mask[click.y, click.x] for click in clicks] for mask in masks])
        iou = (masks[0] & masks[1]).sum() / max((masks[0] | masks[1]).sum(), 1)
        yield np.array_equal(holds, np.eye(2)) and iou <= SAME


def objects(spec: str, limit: int):
    """Photos and the true masks of objects that are large enough."""
    source = open_source(spec)
    for index in range(min(len(source), limit)):
        sample = source[index]
        truth = sample["mask"] > 127
        if truth.mean() >= MIN_AREA:
            yield sample["image"], truth


def centre(truth: np.ndarray) -> Click:
    """The click of a user who wants the object: its pixel farthest from its edge."""
    return next_click(np.zeros_like(truth), truth)


def predict(predictor, clicks: list[Click], refine: bool) -> np.ndarray:
    """The single mask of some clicks."""
    coords, labels = [(click.x, click.y) for click in clicks], [click.label for click in clicks]
    return predictor.predict(coords, labels, multimask_output=False, refine=refine)[0][0] > 0


if __name__ == "__main__":
    tyro.cli(main)
