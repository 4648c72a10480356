"""The video that shows masks: it plays at the times of its source, as its source is shown."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from sam2refiner_jax.commands.track_results import write_overlay_video
from sam2refiner_jax.image.overlay import PALETTE, draw_captions
from sam2refiner_jax.video.frames import open_frames

GREY = 90


def write_clip(path, pts, time_base, height=48, width=64, **settings):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base = time_base
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for stamp in pts:
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), GREY, np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_masks(folder, frames, indices, number=1):
    """A square of an object on the frames."""
    masks = {}
    for index in indices:
        numbered = np.zeros((frames.height, frames.width), np.uint16 if number > 255 else np.uint8)
        numbered[: frames.height // 2, : frames.width // 2] = number
        masks[index] = folder / f"{index}.png"
        Image.fromarray(numbered).save(masks[index])
    return masks


def played(path):
    """Times and pictures of a video, its length in seconds and its pixels' shape."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        facts = stream.duration * stream.time_base, stream.sample_aspect_ratio
        return [f.pts * stream.time_base for f in frames], [f.to_ndarray(format="rgb24") for f in frames], *facts


@pytest.mark.parametrize(
    ("name", "unit"),
    [("clip.mp4", Fraction(1, 90000)), ("clip.mkv", Fraction(1, 1000)), ("clip.ts", Fraction(1, 90000))],
)
def test_times_are_those_of_the_source(tmp_path, name, unit):
    """A variable frame rate, also where only some frames have masks."""
    seconds = [Fraction(t, 1000) for t in (0, 33, 67, 150, 151, 400, 1400, 1433)]
    write_clip(tmp_path / name, [int(t / unit) for t in seconds], unit)
    frames = open_frames(tmp_path / name, 32, kept=1)
    assert frames.times() == seconds
    write_overlay_video(frames, write_masks(tmp_path, frames, range(8)), tmp_path / "all.mp4", "clip")
    assert played(tmp_path / "all.mp4")[0] == seconds
    write_overlay_video(frames, write_masks(tmp_path, frames, [2, 3, 5]), tmp_path / "some.mp4", "clip")
    assert played(tmp_path / "some.mp4")[0] == [seconds[i] - seconds[2] for i in (2, 3, 5)]


def test_a_folder_plays_at_24_frames_a_second(tmp_path):
    frames = open_frames([np.full((48, 64, 3), GREY, np.uint8)] * 5, 32, kept=1)
    write_overlay_video(frames, write_masks(tmp_path, frames, range(5)), tmp_path / "out.mp4", "clip")
    times, _, seconds, _ = played(tmp_path / "out.mp4")
    assert times == [Fraction(i, 24) for i in range(5)]
    assert seconds == Fraction(5, 24)


def test_a_turned_video_is_shown_upright(tmp_path):
    path = write_clip(tmp_path / "phone.mp4", range(3), Fraction(1, 25), sample_aspect_ratio=Fraction(4, 3))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    frames = open_frames(path, 32, kept=1)
    assert (frames.height, frames.width) == (64, 48)
    write_overlay_video(frames, write_masks(tmp_path, frames, range(3)), tmp_path / "out.mp4", "clip")
    _, shown, _, pixel = played(tmp_path / "out.mp4")
    assert shown[0].shape == (64, 48, 3)
    assert pixel == Fraction(3, 4)
    tinted = np.abs(shown[0].astype(int) - GREY).sum(axis=2) > 30
    assert tinted[4:28, 4:20].all()
    assert not tinted[36:, 28:].any()


@pytest.mark.parametrize(("height", "width", "expected"), [(31, 47, (30, 46)), (1, 9, (2, 8)), (16, 16, (16, 16))])
def test_odd_sides(tmp_path, height, width, expected):
    frames = open_frames([np.full((height, width, 3), GREY, np.uint8)] * 2, 32, kept=1)
    write_overlay_video(frames, write_masks(tmp_path, frames, range(2)), tmp_path / "out.mp4", "clip")
    assert [picture.shape for picture in played(tmp_path / "out.mp4")[1]] == [(*expected, 3)] * 2


def test_objects_of_high_numbers(tmp_path):
    """An object's colour goes by its number, also where those before it are not there."""
    for number in (2, 9, 60000):
        frames = open_frames([np.full((48, 64, 3), GREY, np.uint8)], 32, kept=1)
        write_overlay_video(frames, write_masks(tmp_path, frames, [0], number), tmp_path / "out.mp4", "clip")
        colour = played(tmp_path / "out.mp4")[1][0][10, 10].astype(int)
        expected = (GREY + PALETTE[(number - 1) % len(PALETTE)].astype(int)) / 2
        assert np.abs(colour - expected).max() < 12


@pytest.mark.parametrize(("top", "left"), [(100, 60), (0, 0), (0, 200), (210, 190)], ids=str)
def test_captions_stand_beside_their_objects(top, left):
    """Above, or in the object where there is no room; whole within the picture; none of objects without pixels."""
    photo = np.full((240, 320, 3), GREY, np.uint8)
    masks = np.zeros((2, 240, 320), bool)
    masks[0, top : top + 30, left : left + 40] = True
    shown = draw_captions(photo, masks, ["7: 0.98, IoU 0.91", "8: 0.02, IoU 0.50"])
    assert (photo == GREY).all()
    rows, columns = np.nonzero((shown != GREY).any(axis=2))
    assert top - 20 <= rows.min() <= rows.max() <= top + 20
    width = columns.max() - columns.min()
    assert abs(columns.min() - min(left, 320 - width)) <= 4
    middle = draw_captions(photo, np.roll(masks, (110 - top, 100 - left), (1, 2)), ["7: 0.98, IoU 0.91", ""])
    assert abs((middle == 255).sum() - (shown == 255).sum()) <= 0.1 * (middle == 255).sum()  # so nothing is cut off
    assert (draw_captions(photo, masks[1:], ["8: 0.02, IoU 0.50"]) == photo).all()


def test_scores_are_shown_where_given(tmp_path):
    """Also with scores of objects that have no pixels, and of given masks, whose IoU nobody predicted."""
    frames = open_frames([np.full((96, 160, 3), GREY, np.uint8)] * 2, 32, kept=1)
    masks = write_masks(tmp_path, frames, range(2), 2)
    write_overlay_video(frames, masks, tmp_path / "plain.mp4", "clip")
    scores = {0: {1: (0.1, 0.9), 2: (1.0, float("nan"))}, 1: {1: (0.1, 0.9), 2: (0.75, 0.5)}}
    write_overlay_video(frames, masks, tmp_path / "scores.mp4", "clip", scores)
    plain, shown = (played(tmp_path / name)[1] for name in ("plain.mp4", "scores.mp4"))
    for before, after in zip(plain, shown, strict=True):
        rows, _ = np.nonzero((np.abs(before.astype(int) - after) > 60).any(axis=2))
        assert len(rows) > 0
        assert rows.max() < 30
    assert (np.abs(shown[0].astype(int) - shown[1]) > 60).any()
