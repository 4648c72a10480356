"""Our model and the official package with the same random weights give the same tables."""

import numpy as np
import pytest
import torch
from official import official_image_predictor
from PIL import Image
from scenes import scene, write_annotations
from videos import disk, moving_frames, official_and_ours_video, write_jpegs

from sam2refiner_jax.data.clips import open_clips
from sam2refiner_jax.eval.image import Clock, ImageSettings, evaluate_images
from sam2refiner_jax.eval.image_sets import open_benchmarks
from sam2refiner_jax.eval.jax_segmenter import JaxSegmenter
from sam2refiner_jax.eval.official import OfficialSegmenter
from sam2refiner_jax.eval.run_folder import RunFolder
from sam2refiner_jax.eval.tables import summarise
from sam2refiner_jax.eval.trackers import PredictorTracker, our_tracker
from sam2refiner_jax.eval.video import evaluate_videos
from sam2refiner_jax.eval.video_report import summarise_videos

SIZE, HEIGHT, WIDTH, FRAMES = 128, 240, 360, 5


@pytest.fixture(scope="module")
def both():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other by spinning
    # Memories rounded to bfloat16 would make of a difference in the last digit one of many pixels.
    yield official_and_ours_video("sam2.1_hiera_t", SIZE, exact_memories=True, few_blocks=True)
    torch.set_num_threads(threads)


def test_tables_of_images_are_equal(both, tmp_path):
    for part in ("images", "masks", "rough"):
        (tmp_path / part).mkdir()
    for i in range(3):
        photo, (mask,) = scene(i, height=HEIGHT + 40 * i, width=WIDTH)
        Image.fromarray(photo).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
        Image.fromarray(np.roll(mask, 9)).save(tmp_path / "rough" / f"{i}.png")
    benchmarks = open_benchmarks([f"folder:{tmp_path}"])
    official, ours = both
    tables = []
    for segmenter in (OfficialSegmenter(official_image_predictor(official), "t"), JaxSegmenter(ours.model, "t")):
        run = RunFolder(tmp_path / type(segmenter).__name__, segmenter.settings())
        settings = ImageSettings(("box", "points-1", "points-5", f"masks:{tmp_path / 'rough'}"))
        assert evaluate_images(segmenter, benchmarks, settings, run, Clock()) == []
        summary = summarise(run.records)
        tables.append([entry["average"] for masks in summary.values() for entry in masks.values()])
    for theirs, mine in zip(*tables, strict=True):
        assert mine == pytest.approx(theirs, abs=5e-5)
    assert len({entry["iou"] for entry in tables[0]}) == 5  # of rough masks, as they were given, and the model's


def test_tables_of_videos_are_equal(both, tmp_path):
    numbers = [disk(i, HEIGHT, WIDTH).astype(np.uint8) for i in range(FRAMES)]
    for i, frame in enumerate(numbers):
        if i >= 1:  # another object, from the second frame on
            frame[10 + 8 * i : 60 + 8 * i, 250:300] = 2
    write_jpegs(tmp_path / "JPEGImages" / "480p" / "clip", moving_frames(FRAMES, HEIGHT, WIDTH))
    write_annotations(tmp_path / "Annotations" / "480p" / "clip", numbers)
    official, ours = both
    summaries = []
    for tracker in (PredictorTracker(official, "t", {}), our_tracker(ours, "t")):
        run = RunFolder(tmp_path / f"run{len(summaries)}", tracker.settings())
        evaluate_videos(tracker, open_clips(tmp_path), "mask", run, Clock())
        summaries.append(summarise_videos(run.records))
    theirs, mine = summaries
    # Masks of random weights are small and ragged: a single pixel, cut otherwise, moves J by 6e-5 and F by 1e-4.
    assert mine.j == pytest.approx(theirs.j, abs=2e-4)
    assert mine.f == pytest.approx(theirs.f, abs=2e-4)
    for summary in summaries:
        assert summary.jf == pytest.approx((summary.j + summary.f) / 2)
    assert 0 < theirs.j < 1
    assert 0 < theirs.f < 1
