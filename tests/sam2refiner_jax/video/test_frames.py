"""Frames from folders, files, lists and iterators, and what is wrong with them said clearly."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from PIL import Image
from videos import moving_frames, write_jpegs, write_video

from sam2refiner_jax.video.frames import open_frames
from sam2refiner_jax.video.state import InferenceState

HEIGHT, WIDTH, SIZE = 48, 64, 32


@pytest.fixture(scope="module")
def frames():
    return moving_frames(40, HEIGHT, WIDTH)


def open_all(source, kept=4):
    return open_frames(source, SIZE, kept=kept)


def test_folder_is_sorted_by_number(frames, tmp_path):
    for name, frame in (("10", 2), ("9", 1), ("08", 0)):
        Image.fromarray(frames[frame]).save(tmp_path / f"{name}.jpg", quality=95)
    (tmp_path / "notes.txt").write_text("not a frame")
    found = open_all(tmp_path)
    assert len(found) == 3
    assert (found.height, found.width) == (HEIGHT, WIDTH)
    assert found.names() == ["08", "9", "10"]
    for i in range(3):
        expected = np.asarray(Image.fromarray(frames[i]).resize((SIZE, SIZE)))
        assert np.abs(found[i].astype(int) - expected).mean() < 6
    assert [i for i, _ in found.ahead([2, 0, 1])] == [2, 0, 1]


@pytest.mark.parametrize("suffix", ["png", "PNG", "webp", "tiff", "bmp"])
def test_folders_of_other_pictures(frames, tmp_path, suffix):
    for i, frame in enumerate(frames[:12]):
        Image.fromarray(frame).save(tmp_path / f"{i}.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    found = open_all(tmp_path)
    assert found.names() == [str(i) for i in range(12)]
    for photo, frame in zip(found.photos(), frames[:12], strict=True):
        np.testing.assert_array_equal(photo, frame)


def test_which_files_of_a_folder_are_frames(frames, tmp_path):
    """JPEGs if there are any, as officially; never what is hidden; no two of one number."""
    write_jpegs(tmp_path, frames[:3])
    for name in ("._00000.jpg", ".00003.jpg", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"of the system")
    Image.fromarray(frames[0]).save(tmp_path / "00000.png")
    Image.fromarray(frames[0]).save(tmp_path / "00007.png")
    assert open_all(tmp_path).names() == ["00000", "00001", "00002"]
    Image.fromarray(frames[0]).save(tmp_path / "0.JPG")
    with pytest.raises(ValueError, match=r"numbers of their own; .* holds 0\.JPG and 00000\.jpg"):
        open_all(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_pictures_are_turned_upright(frames, tmp_path, suffix):
    """As `read_photo` turns them; frames stored lying and standing can be mixed."""
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned a quarter clockwise
    Image.fromarray(np.rot90(frames[0])).save(tmp_path / f"0.{suffix}", exif=exif, quality=95)
    Image.fromarray(frames[0]).save(tmp_path / f"1.{suffix}", quality=95)
    found = open_all(tmp_path)
    assert (found.height, found.width) == (HEIGHT, WIDTH)
    for photo in found.photos():
        assert photo.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(photo.astype(int) - frames[0]).mean() < 8
    np.testing.assert_allclose(found[0], found[1], atol=60)


def test_deep_pictures_are_scaled(tmp_path):
    grey = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "0.png")
    np.testing.assert_array_equal(next(open_all(tmp_path).photos())[..., 0], (grey.astype(np.uint16) / 257).round())


def test_bytes_and_copies_of_a_video(frames, tmp_path):
    path = write_video(tmp_path / "clip.mp4", frames[:12])
    found = open_all(path)
    expected = [frame for _, frame in found.ahead(range(12))]
    state = InferenceState(found, len(found), None)
    copies = open_all(path.read_bytes()), copy.deepcopy(state).frames, pickle.loads(pickle.dumps(found))
    for other in copies:
        assert (len(other), other.height, other.width) == (12, HEIGHT, WIDTH)
        for i in (7, 0, 11):
            np.testing.assert_array_equal(other[i], expected[i])
    np.testing.assert_array_equal(found[3], expected[3])
    with pytest.raises(TypeError, match="frames of an iterator cannot be copied"):
        copy.deepcopy(open_all(iter(frames)))


def test_bytes_that_name_files_have_none_of_them_read(frames, tmp_path, monkeypatch):
    """A playlist names what is to be played, and FFmpeg would open it."""
    monkeypatch.chdir(tmp_path)
    stream = write_video(tmp_path / "clip.ts", frames[:4])
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{stream}\n#EXT-X-ENDLIST\n"
    for text in (hls, f"ffconcat version 1.0\nfile '{stream}'\n", "ffconcat version 1.0\nfile clip.ts\n"):
        with pytest.raises(ValueError, match=r"is not a readable video|holds no video"):
            open_all(text.encode())


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_video_file_in_any_order(frames, tmp_path, codec):
    """Long groups of pictures and, with x264, frames stored in another order than they are shown."""
    path = write_video(tmp_path / "clip.mp4", frames, codec, gop_size=30)
    found = open_all(path)
    assert len(found) == 40
    in_order = [frame for _, frame in found.ahead(range(40))]
    for got, frame in zip(in_order, frames, strict=True):
        assert np.abs(got.astype(int) - np.asarray(Image.fromarray(frame).resize((SIZE, SIZE)))).mean() < 20
    for i in (39, 38, 3, 36, 0, 20):
        np.testing.assert_array_equal(found[i], in_order[i])
    for i, frame in found.ahead(range(39, -1, -1)):
        np.testing.assert_array_equal(frame, in_order[i])
    assert len(list(found.photos())) == 40


def test_lists_and_arrays(frames):
    expected = [np.asarray(Image.fromarray(f).resize((SIZE, SIZE))) for f in frames[:3]]
    for source in (frames[:3], np.stack(frames[:3]), [Image.fromarray(f) for f in frames[:3]]):
        found = open_all(source)
        assert len(found) == 3
        for i, frame in found.ahead(range(3)):
            np.testing.assert_array_equal(frame, expected[i])
    as_floats = open_all([f.astype(np.float32) / 255 for f in frames[:3]])
    np.testing.assert_array_equal(as_floats[1], expected[1])


def test_iterator_keeps_only_the_last_frames(frames):
    found = open_all(iter(frames))
    assert found.indices() == range(0, 1)
    assert [i for i, _ in found.ahead(range(10))] == list(range(10))
    assert found.indices() == range(6, 10)
    assert [i for i, _ in found.ahead(range(8, 100))] == list(range(8, 40))


def test_nothing_to_read(tmp_path):
    with pytest.raises(ValueError, match=r"must hold frames <number>\.jpg, got none"):
        open_all(tmp_path)
    with pytest.raises(ValueError, match="at least one frame, got an empty list"):
        open_all([])
    with pytest.raises(ValueError, match="iterator that gives none"):
        open_all(iter([]))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_all(tmp_path / "nowhere.mp4")


def test_mixed_sizes(frames, tmp_path):
    odd = frames[0][:30]
    expected = r"all frames must have one size.*64 x 30, the first 64 x 48"
    with pytest.raises(ValueError, match=expected):
        open_all([frames[0], odd])
    with pytest.raises(ValueError, match="frame 1.*" + "64 x 30"):
        list(open_all(iter([frames[0], odd])).ahead(range(2)))
    with pytest.raises(ValueError, match=expected):
        open_all(write_jpegs(tmp_path, [frames[0], frames[1], odd]))


def test_names_that_are_no_numbers(frames, tmp_path):
    write_jpegs(tmp_path, frames[:2])
    Image.fromarray(frames[2]).save(tmp_path / "cover.jpg")
    with pytest.raises(ValueError, match=r"named by their number.*cover\.jpg"):
        open_all(tmp_path)


def test_broken_videos(frames, tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(ValueError, match=r"empty\.mp4 is empty"):
        open_all(empty)
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(ValueError, match=r"noise\.mp4 is not a readable video"):
        open_all(noise)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(write_video(tmp_path / "whole.mp4", frames).read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cut\.mp4"):
        open_all(cut)


def test_a_corrupt_frame_in_a_video_is_named(frames, tmp_path):
    """Every frame a key frame, and one of them overwritten."""
    import av

    path = write_video(tmp_path / "clip.mkv", frames, "mpeg4", gop_size=1)
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    data = path.read_bytes()
    at = data.index(packets[20][:40])
    path.write_bytes(data[:at] + bytes(len(packets[20])) + data[at + len(packets[20]) :])
    found = open_all(path)
    assert [i for i, _ in itertools.islice(found.ahead(range(40)), 20)] == list(range(20))
    assert found[25].shape == found[21].shape == (SIZE, SIZE, 3)  # those after it can be read all the same
    with pytest.raises(ValueError, match=r"frame 20 of .*clip\.mkv is corrupt"):
        list(found.ahead(range(40)))


def test_an_iterator_that_fails_says_where(frames):
    def camera():
        yield from frames[:2]
        raise OSError("cable pulled")

    found = open_all(camera())
    with pytest.raises(RuntimeError, match=r"failed at frame 2.*cable pulled"):
        list(found.ahead(range(10)))
    with pytest.raises(ValueError, match="frame 0: image must"):
        open_all(iter([np.zeros((4, 4, 7), np.uint8)]))
