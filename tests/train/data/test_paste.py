"""Objects pasted onto other samples, seen pixel by pixel."""

import grain
import numpy as np

from sam2refiner_jax.train.config import DataConfig
from sam2refiner_jax.train.data.paste import SIZES, Paste, paste
from sam2refiner_jax.train.data.pipeline import make_batches

BLUE, RED = (10, 20, 200), (220, 30, 40)


def scene(height: int, width: int, *boxes: tuple[int, int, int, int], colour=BLUE, many=True):
    """A picture of one colour with boxes (y0, y1, x0, x1) as objects, or with one object alone."""
    masks = np.zeros((height, width, len(boxes)), np.uint8)
    for i, (y0, y1, x0, x1) in enumerate(boxes):
        masks[y0:y1, x0:x1, i] = 255
    return {"image": np.full((height, width, 3), colour, np.uint8), "mask": masks if many else masks[..., 0]}


def test_an_object_lies_over_the_others():
    """Inside its mask the picture is the other's, outside it the sample's; what it covers is no one else's."""
    other = scene(80, 120, (20, 60, 30, 100), (0, 5, 0, 5), colour=RED)
    sizes, corners = [], []
    for seed in range(100):
        sample = scene(100, 150, (10, 90, 20, 70), (50, 95, 60, 140), (0, 9, 0, 9))
        before = sample["image"].copy()
        result = paste(sample, other, np.random.default_rng(seed))
        first, second, third = np.moveaxis(result["mask"], -1, 0)
        np.testing.assert_array_equal(sample["image"], before)
        np.testing.assert_array_equal(result["image"][first == 255], np.broadcast_to(RED, ((first == 255).sum(), 3)))
        np.testing.assert_array_equal(result["image"][first == 0], np.broadcast_to(BLUE, ((first == 0).sum(), 3)))
        assert set(np.unique(first)) == {0, 255}  # all of the box is the object's
        rows, columns = np.flatnonzero(first.any(axis=1)), np.flatnonzero(first.any(axis=0))
        sizes.append((len(columns), len(rows)))
        corners.append((rows[0] / (100 - len(rows)), columns[0] / (150 - len(columns))))
        for mask, box in ((second, np.s_[10:90, 20:70]), (third, np.s_[50:95, 60:140])):
            left = np.zeros((100, 150), np.uint8)
            left[box] = 255
            left[first == 255] = 0
            np.testing.assert_array_equal(mask, left if np.count_nonzero(left) >= 64 else first)
    sizes = np.array(sizes)
    assert SIZES[0] * 100 - 1 <= sizes[:, 0].min() < 0.35 * 100
    assert 0.8 * 100 < sizes[:, 0].max() <= SIZES[1] * 100 + 1
    np.testing.assert_allclose(sizes[:, 0] * 40 / 70, sizes[:, 1], atol=1)
    assert np.ptp(corners, axis=0).min() > 0.9


def test_soft_edges_mix_the_pictures():
    other = scene(64, 64, (0, 64, 0, 64), colour=RED)
    other["mask"][:, 32:] = 128
    result = paste(scene(64, 64, (0, 64, 0, 64)), other, np.random.default_rng(0))
    alpha = result["mask"][..., :1] / 255
    assert {128, 255} <= set(np.unique(result["mask"]))
    np.testing.assert_allclose(result["image"], alpha * RED + (1 - alpha) * BLUE, atol=1)


def test_half_of_the_objects_are_mirrored():
    other = scene(64, 64, (10, 50, 10, 50), colour=RED)
    other["image"][:, :30] = (0, 255, 0)
    results = [paste(scene(64, 64, (0, 64, 0, 64)), other, np.random.default_rng(seed)) for seed in range(60)]
    left = [r["image"][r["mask"][..., 0] == 255][0].tolist() == [0, 255, 0] for r in results]
    assert 0.3 < np.mean(left) < 0.7


def test_one_mask_stays_one_and_small_things_are_not_pasted():
    sample, large = scene(64, 64, (0, 20, 0, 20), many=False), scene(64, 64, (10, 50, 10, 50), many=False)
    assert paste(sample, large, np.random.default_rng(0))["mask"].shape == (64, 64)
    assert paste(large, scene(64, 64, (0, 7, 0, 9)), np.random.default_rng(0)) is None
    assert paste(large, scene(640, 640, (0, 640, 0, 2)), np.random.default_rng(0)) is None  # nothing left of it
    assert paste(large, scene(64, 64, (0, 0, 0, 0)), np.random.default_rng(0)) is None


class Scenes:
    """Pictures of shades of grey with an object each."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return scene(48, 64, (10, 40, 10, 40), colour=(10 * index,) * 3, many=False)

    def name_of(self, index):
        return f"grey {10 * index}"


def test_a_share_of_a_stream_is_pasted_on():
    stream = grain.MapDataset.source(Scenes()).repeat()
    pasted = stream.random_map(Paste(stream, 0.4), seed=3)
    samples = [pasted[i] for i in range(200)]
    changed = [len(np.unique(sample["image"])) > 1 for sample in samples]
    assert 0.25 < np.mean(changed) < 0.5  # one in twenty is pasted onto its like
    for i in (150, 7, 23):
        np.testing.assert_array_equal(stream.random_map(Paste(stream, 0.4), seed=3)[i]["image"], samples[i]["image"])
    np.testing.assert_array_equal(pasted[10:20][3]["image"], samples[13]["image"])
    other = [len(np.unique(stream.random_map(Paste(stream, 0.4), seed=4)[i]["image"])) > 1 for i in range(200)]
    assert other != changed


def test_batches_are_the_same_after_a_stop():
    def batches(**options):
        config = DataConfig(jitter=None, **options)
        return make_batches([(Scenes(), 1.0)], config, image_size=32, batch_size=4, seed=0)

    whole, plain = batches(paste=0.5, objects=2), batches(objects=2)
    expected = [next(whole) for _ in range(4)]
    assert any((batch["image"] != next(plain)["image"]).any() for batch in expected)
    again = batches(paste=0.5, objects=2)
    again.set_state({"next_batch": 2})
    batch = next(again)
    for name in ("image", "mask"):
        np.testing.assert_array_equal(batch[name], expected[2][name])
