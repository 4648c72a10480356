"""Boxes of detectors: both forms, what is first, and what is said of bad files."""

import copy
import json
from pathlib import Path

import pytest

from sam2refiner_jax.data.detections import read_detections

SIZE = (90, 120)
NAMES = [f"{i:05d}" for i in range(0, 20, 5)]

COCOVID = {
    "videos": [{"id": 1, "name": "first"}, {"id": 2, "name": "data/second"}],
    "images": [
        {"id": 10, "video_id": 1, "frame_id": 0, "file_name": "first/00000.jpg", "height": 90, "width": 120},
        {"id": 21, "video_id": 2, "frame_id": 1, "file_name": "second/00005.jpg", "height": 90, "width": 120},
        {"id": 20, "video_id": 2, "frame_id": 0, "file_name": "second/00000.jpg"},
        {"id": 23, "video_id": 2, "frame_id": 3, "file_name": "second/00015.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 10, "instance_id": 1, "bbox": [0, 0, 5, 5], "category_id": 1},
        {"id": 2, "image_id": 23, "instance_id": 4, "bbox": [50, 20, 30, 40], "category_id": 2, "score": 0.9},
        {"id": 3, "image_id": 21, "instance_id": 9, "bbox": [10, 20, 30, 40], "category_id": 1, "score": 0.7},
        {"id": 4, "image_id": 20, "instance_id": 9, "bbox": [-3, 19.5, 30, 40], "category_id": 1, "score": 0.2},
        {"id": 5, "image_id": 23, "instance_id": 9, "bbox": [1, 2, 3, 4], "category_id": 1, "score": 0.9},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
YOUTUBE_VIS = {
    "videos": [{"id": 5, "width": 120, "height": 90, "file_names": [f"abc/{name}.jpg" for name in NAMES]}],
    "annotations": [
        {"id": 70, "video_id": 5, "category_id": 3, "bboxes": [None, None, [1, 2, 3, 4], [9, 9, 9, 9]]},
        {"id": 0, "video_id": 5, "category_id": 3, "bboxes": [[5, 6, 7, 8], None, None, None], "score": 0.5},
        {"id": 71, "video_id": 5, "category_id": 3, "bboxes": [None] * 4},
    ],
    "categories": [{"id": 3, "name": "owl"}],
}


@pytest.fixture
def read(tmp_path):
    def call(document, video="second", names=NAMES, count=4, size=SIZE, threshold=0.0):
        text = document if isinstance(document, str) else json.dumps(document)
        (tmp_path / "boxes.json").write_text(text)
        return read_detections(tmp_path / "boxes.json", video, names, count, size, threshold)

    return call


def test_cocovid(read):
    found = read(COCOVID)
    assert [(f.frame, f.number, f.instance, f.category, f.score) for f in found] == [
        (0, 9, 9, "cat", 0.2),
        (3, 4, 4, "dog", 0.9),
    ]
    assert [f.box for f in found] == [(-3.0, 19.5, 27.0, 59.5), (50.0, 20.0, 80.0, 60.0)]
    assert [(f.frame, f.box) for f in read(COCOVID, threshold=0.5)] == [(1, (10, 20, 40, 60)), (3, (50, 20, 80, 60))]
    # Of a video file, frames are counted; it has the name of the video with its suffix.
    assert [f.frame for f in read(COCOVID, video="second.mp4", names=None, count=4)] == [0, 3]
    (first,) = read(COCOVID, video="first")
    assert (first.frame, first.number, first.score) == (0, 1, 1.0)


def test_youtube_vis(read):
    """A file of one video is taken for any; an id of 0 is no number of an object, so all are counted."""
    found = read(YOUTUBE_VIS, video="renamed")
    assert [(f.frame, f.number, f.instance, f.box) for f in found] == [
        (0, 1, 0, (5, 6, 12, 14)),
        (2, 2, 70, (1, 2, 4, 6)),
    ]
    assert found[0].category == "owl"
    assert [(f.frame, f.number) for f in read(YOUTUBE_VIS, names=None, threshold=0.6)] == [(2, 70)]
    assert [(f.frame, f.number) for f in read(YOUTUBE_VIS, names=["x", *NAMES], count=5)] == [(1, 1), (3, 2)]


def changed(document, *path_and_value):
    """The document with another value, or without it, at a place."""
    document = copy.deepcopy(document)
    *path, last, value = path_and_value
    place = document
    for step in path:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is not JSON"),
        ([1], "must hold an object with videos and annotations.*got list"),
        ({"annotations": []}, "videos must be a list of objects, got none"),
        (changed(COCOVID, "annotations", [3]), "annotations must be a list of objects, got something else"),
        (changed(COCOVID, "videos", []), "must name a video in videos, got none"),
        (changed(COCOVID, "videos", 1, "name", "third"), "one video called second, got 0 among 2: first, third"),
        (changed(COCOVID, "videos", 0, "name", "second"), "one video called second, got 2 among 2"),
        (changed(COCOVID, "images", 2, "id", None), r"images\[2\] must have id, got video_id, frame_id, file_name"),
        (changed(COCOVID, "images", 1, "width", 60), r"images\[1\] are of 60 x 90 pixels, the video is 120 x 90"),
        (
            changed(COCOVID, "images", 2, "file_name", "second/00001.jpg"),
            r"images\[2\] must be of a frame, 00000 to 00015, got 'second/00001.jpg'",
        ),
        (
            changed(COCOVID, "annotations", 1, "instance_id", None),
            r"annotations\[1\] must have instance_id or track_id",
        ),
        (changed(COCOVID, "annotations", 1, "bbox", [1, 2, 3]), r"annotations\[1\] must be a box.*got \[1, 2, 3\]"),
        (changed(COCOVID, "annotations", 1, "bbox", [1, 2, 0, 4]), "with an area, got"),
        (changed(COCOVID, "annotations", 1, "bbox", [1, 2, 3, float("nan")]), "with an area, got"),
        (changed(COCOVID, "annotations", 1, "bbox", [120, 2, 9, 9]), r"must overlap the frame of 120 x 90 pixels"),
        (changed(COCOVID, "annotations", 1, "score", "high"), r"annotations\[1\] must have a number for its score"),
        (changed(YOUTUBE_VIS, "annotations", 0, "bboxes", [None]), "a box or null for each of 4 frames, got 1"),
        (changed(YOUTUBE_VIS, "annotations", 0, "bboxes", None), r"annotations\[0\] must have bboxes, got"),
        (changed(YOUTUBE_VIS, "videos", 0, "height", 91), "videos are of 120 x 91 pixels, the video is 120 x 90"),
        (changed(YOUTUBE_VIS, "videos", 0, "file_names", None), "the video in videos must have file_names"),
        (changed(YOUTUBE_VIS, "annotations", []), "a score of at least 0, got no box"),
    ],
    ids=str,
)
def test_bad_files_are_named(read, document, message):
    with pytest.raises(ValueError, match=rf"boxes\.json.*{message}"):
        read(document)


def test_thresholds_and_frames_out_of_reach(read):
    with pytest.raises(ValueError, match=r"score of at least 0.95, got scores up to 0.9"):
        read(COCOVID, threshold=0.95)
    with pytest.raises(ValueError, match=r"images\[3\] must be of a frame from 0 to 2, got 3"):
        read(COCOVID, names=None, count=3)
    with pytest.raises(ValueError, match="cannot be read"):
        read_detections(Path("nowhere.json"), "x", None, 1, SIZE)
