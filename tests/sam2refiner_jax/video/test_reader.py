"""Video files as cameras, recorders and editors make them: what was encoded is what comes, frame by frame."""

import itertools
import struct
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from sam2refiner_jax.video.frames import VideoFile
from sam2refiner_jax.video.reader import Decoder, VideoReader

HEIGHT, WIDTH, COUNT, RATE = 48, 64, 44, 25
STEP = 5  # between the grey levels of two frames
MPEG2 = {"codec": "mpeg2video", "max_b_frames": 2, "gop_size": 12}
H264 = {"codec": "libx264", "gop_size": 12, "options": {"x264-params": "open-gop=1:bframes=3:scenecut=0"}}
H264_IN_ORDER = {"codec": "libx264", "gop_size": 12, "options": {"x264-params": "bframes=0:scenecut=0"}}
H265 = {"codec": "libx265", "gop_size": 12, "options": {"x265-params": "log-level=none:bframes=3:keyint=12"}}


def numbered_frames(count=COUNT, height=HEIGHT, width=WIDTH):
    """Frames whose grey level tells their number, with a white bar on the left and a black one on top."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (20 + STEP * np.arange(count))[:, None, None, None]
    frames[:, :, :10] = 255
    frames[:, :8] = 0
    return list(frames)


def numbers(images):
    """The numbers of decoded frames, by their grey level."""
    return [round((np.asarray(image)[16:40, 20:44].mean() - 20) / STEP) for image in images]


def clip(path, frames=None, *, codec="libx264", **options):
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV cannot encode {codec}")
    with av.open(str(path), "w") as container:
        frames = numbered_frames() if frames is None else frames
        encode(container, add_stream(container, frames, codec, **options), frames)
    return path


def add_stream(container, frames, codec="mpeg4", *, options=None, pix_fmt="yuv420p", disposition=None, **settings):
    stream = container.add_stream(codec, rate=RATE, options=options or {})
    stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pix_fmt
    if disposition is not None:
        stream.disposition = disposition
    for name, value in {"bit_rate": 2_000_000, "qmax": 4, **settings}.items():
        setattr(stream.codec_context, name, value)
    return stream


def encode(container, stream, frames):
    for frame in frames:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())


def remux(source, target, change=lambda packet: [packet]):
    """Copies a clip, each packet as `change` says."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            for changed in change(packet) if packet.size else []:
                changed.stream = stream
                new.mux(changed)
    return target


def after(count):
    """A change that drops the first packets."""
    seen = itertools.count()
    return lambda packet: [packet] if next(seen) >= count else []


def check(source, expected):
    """The frames are `expected`: in order, from any one on, and backwards."""
    reader = VideoReader(source)
    assert len(reader) == len(reader.times) == len(expected)
    assert numbers(reader.frames_from(0)) == expected
    for first in np.random.default_rng(0).permutation(len(expected))[:8]:
        assert numbers(itertools.islice(reader.frames_from(int(first)), 3)) == expected[first : first + 3]
    assert all(a < b for a, b in itertools.pairwise(reader.times))
    frames = VideoFile(source, 64)  # as wide as the frames, and taller
    found = dict(frames.ahead(range(len(frames) - 1, -1, -1)))
    assert [round((found[i][32:48, 20:44].mean() - 20) / STEP) for i in range(len(frames))] == expected
    return reader


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip.mp4", H264),
        ("clip.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("clip.mkv", H264),
        ("hevc.mkv", H265),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("clip.ts", H264),
        ("hevc.ts", H265),
        ("camera.mts", H264),
        ("clip.mpg", MPEG2),
        ("disc.vob", MPEG2),
        ("old.mpg", MPEG2 | {"codec": "mpeg1video"}),
        ("clip.avi", H264),
        ("divx.avi", {"codec": "mpeg4", "max_b_frames": 2}),
        ("clip.flv", {"codec": "flv"}),
        ("clip.wmv", {"codec": "wmv2"}),
        ("clip.h264", H264),
        ("clip.hevc", H265),
    ],
)
def test_containers(tmp_path, name, options):
    path = clip(tmp_path / name, **options)
    reader = check(path, list(range(COUNT)))
    assert (reader.height, reader.width) == (HEIGHT, WIDTH)
    assert reader.times == [Fraction(i, RATE) for i in range(COUNT)] or name.endswith(
        (".mkv", ".webm", ".flv", ".wmv", ".h264", ".hevc")
    )
    check(path.read_bytes(), list(range(COUNT)))


def test_times_in_milliseconds_and_of_streams_without_any(tmp_path):
    times = VideoReader(clip(tmp_path / "clip.mkv", **H264)).times
    assert times == [Fraction(round(i * 1000 / RATE), 1000) for i in range(COUNT)]
    times = VideoReader(clip(tmp_path / "clip.h264", **H264)).times
    assert all(b - a == times[1] for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("cut", [3, 17])
def test_an_edit_list_trims(tmp_path, cut):
    """As editors do without encoding again: frames stay in the file for those after them, and are not shown."""

    def earlier(packet):
        packet.pts -= round(cut / RATE / packet.time_base)
        packet.dts -= round(cut / RATE / packet.time_base)
        return [packet]

    path = remux(clip(tmp_path / "whole.mp4", **H264), tmp_path / "trimmed.mp4", earlier)
    with av.open(str(path)) as container:
        assert any(packet.is_discard for packet in container.demux(video=0))
    check(path, list(range(cut, COUNT)))


@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4", "cut.ts"])
def test_a_start_between_key_frames(tmp_path, name):
    """Nothing is shown before the first key frame, nor what is stored after it and refers to frames before it."""
    path = remux(clip(tmp_path / "whole.mp4", **H264_IN_ORDER), tmp_path / name, after(5))
    check(path, list(range(12, COUNT)))


@pytest.mark.parametrize("name", ["open.mkv", "open.mp4", "open.ts"])
def test_a_start_in_an_open_group(tmp_path, name):
    path = remux(clip(tmp_path / f"whole_{name}", **H264), tmp_path / name, after(12))
    first = numbers(VideoReader(path).frames_from(0))[0]
    assert 12 <= first <= 15
    check(path, list(range(first, COUNT)))


def test_two_frames_of_one_time(tmp_path):
    def repeat(packet):
        if packet.pts in (120, 360, 1320):  # frames 3, 9 and 33
            packet.pts -= 40
            packet.dts = packet.pts
        return [packet]

    whole = clip(tmp_path / "whole.mkv", **H264_IN_ORDER)
    path = remux(whole, tmp_path / "clip.mkv", repeat)
    with av.open(str(path)) as container:
        assert len({p.pts for p in container.demux(video=0) if p.size}) == COUNT - 3
    check(path, list(range(COUNT)))


def test_joined_recordings(tmp_path):
    """Times begin again, or go back a little."""
    data = clip(tmp_path / "clip.ts", **MPEG2).read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(data + data)
    reader = check(path, [*range(COUNT)] * 2)
    assert reader.times == [Fraction(i, RATE) for i in range(2 * COUNT)]
    with av.open(str(tmp_path / "clip.ts")) as container:
        keys = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe]
    path.write_bytes(data[: keys[2]] + data[keys[1] :])
    reader = VideoReader(path)
    with av.open(str(path)) as container:
        assert numbers(reader.frames_from(0)) == numbers(f.to_image() for f in container.decode(video=0))
    assert len(reader) > COUNT


def test_times_that_are_missing(tmp_path):
    def some(packet):
        packet.pts = packet.pts if packet.is_keyframe else None
        return [packet]

    path = remux(clip(tmp_path / "clip.ts", **H264), tmp_path / "some.ts", some)
    with av.open(str(path)) as container:
        assert any(frame.pts is None for frame in container.decode(video=0))
    check(path, list(range(COUNT)))


def test_hidden_frames(tmp_path):
    """VP8 pictures that are stored to be referred to, and MPEG-4 pictures that say that nothing was coded."""

    def hide_vp8(packet):
        data = bytearray(bytes(packet))
        data[0] &= ~0x10 if round(packet.pts * 25 / 1000) in (20, 36) else 0xFF
        return [changed(packet, data)]

    path = remux(clip(tmp_path / "whole.webm", codec="libvpx"), tmp_path / "hidden.webm", hide_vp8)
    check(path, [i for i in range(COUNT) if i not in (20, 36)])

    def drop_mpeg4(packet):
        data = bytes(packet)
        if round(packet.pts * 25 / 1000) == 36:
            # Start code, P, time base, marker, five bits of time, marker, not coded, stuffing.
            bits = int.from_bytes(data[4:6], "big")
            assert not packet.is_keyframe
            assert bits >> 12 == 0b0101
            data = data[:4] + ((bits & 0b1111_1111_1000_0000) | 0b0100_1111).to_bytes(2, "big")
        return [changed(packet, data)]

    path = remux(clip(tmp_path / "whole.mkv", codec="mpeg4", gop_size=50), tmp_path / "dropped.mkv", drop_mpeg4)
    check(path, [i for i in range(COUNT) if i != 36])


def changed(packet, data):
    new = av.Packet(bytes(data))
    new.pts, new.dts, new.time_base, new.is_keyframe = packet.pts, packet.dts, packet.time_base, packet.is_keyframe
    return new


def test_damage_in_a_file_that_lists_no_frames_is_passed_over(tmp_path):
    path = clip(tmp_path / "clip.avi", codec="mpeg4", gop_size=1)
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    data = path.read_bytes()
    at = data.index(packets[20])
    noise = np.random.default_rng(0).bytes(len(packets[20]))
    path.write_bytes(data[:at] + noise + data[at + len(packets[20]) :])
    with pytest.warns(UserWarning, match=r"clip\.avi: 1 of its packets cannot be decoded"):
        reader = VideoReader(path)
    assert numbers(reader.frames_from(0)) == [i for i in range(COUNT) if i != 20]


def test_a_recording_that_was_cut_off(tmp_path):
    data = clip(tmp_path / "whole.mkv", codec="mpeg4", gop_size=12).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) // 2])
    found = numbers(VideoReader(path).frames_from(0))
    assert 10 < len(found) < COUNT - 5
    assert found == list(range(len(found)))


def boxes(data):
    """The boxes of MP4 data: kind and bytes."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at : at + size]
        at += size


@pytest.mark.parametrize("first", [True, False])
def test_cover_pictures_are_passed_over(tmp_path, first):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        picture = [np.full((200, 300, 3), 255, np.uint8)]
        cover = av.stream.Disposition.attached_pic
        streams = (
            add_stream(container, numbered_frames()),
            add_stream(container, picture, "mjpeg", pix_fmt="yuvj420p", disposition=cover),
        )
        for stream, frames in zip(streams, (numbered_frames(), picture), strict=True):
            encode(container, stream, frames)
    if first:  # as other programs order what describes the file
        parts = dict(boxes(path.read_bytes()))
        inner = sorted(boxes(parts[b"moov"][8:]), key=lambda box: box[0] != b"udta")
        parts[b"moov"] = parts[b"moov"][:8] + b"".join(data for _, data in inner)
        path.write_bytes(b"".join(parts.values()))
    with av.open(str(path)) as container:
        assert [stream.width for stream in container.streams.video] == ([300, WIDTH] if first else [WIDTH, 300])
    check(path, list(range(COUNT)))


def test_the_largest_of_several_videos(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        sizes = numbered_frames(10, 16, 16), numbered_frames(10, 64, 64)
        streams = [add_stream(container, frames, disposition=av.stream.Disposition(0)) for frames in sizes]
        for stream, frames in zip(streams, sizes, strict=True):
            encode(container, stream, frames)
    assert VideoReader(path).width == 64
    check(path, list(range(10)))


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, ONE, -ONE, 0), lambda frame: np.rot90(frame, -1)),  # a phone upright: a quarter clockwise
        ((-ONE, 0, 0, -ONE), lambda frame: np.rot90(frame, 2)),
        ((0, -ONE, ONE, 0), np.rot90),
        ((-ONE, 0, 0, ONE), np.fliplr),
        ((ONE, 0, 0, -ONE), np.flipud),
        ((0, ONE, ONE, 0), lambda frame: np.swapaxes(frame, 0, 1)),
        ((0, -ONE, -ONE, 0), lambda frame: np.rot90(np.swapaxes(frame, 0, 1), 2)),
        ((46341, 46341, -46341, 46341), lambda frame: frame),  # an eighth of a turn
    ],
)
def test_the_display_matrix_turns_frames(tmp_path, matrix, turn):
    path = clip(tmp_path / "clip.mp4", numbered_frames(6))
    stored = [np.asarray(image) for image in VideoReader(path).frames_from(0)]
    with av.open(str(path)) as container:
        np.testing.assert_array_equal(stored[2], list(container.decode(video=0))[2].to_ndarray(format="rgb24"))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    assert struct.unpack_from(">9i", data, at) == (ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
    a, b, c, d = matrix
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    reader = VideoReader(path)
    assert (reader.height, reader.width) == turn(stored[0]).shape[:2]
    for image, frame in zip(reader.frames_from(0), stored, strict=True):
        np.testing.assert_array_equal(image, turn(frame))


def test_pixels_that_are_not_square(tmp_path):
    path = clip(tmp_path / "clip.mp4", numbered_frames(3), sample_aspect_ratio=Fraction(16, 15))
    assert VideoReader(path).pixel_aspect == Fraction(16, 15)
    data = bytearray(path.read_bytes())
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, 0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    assert VideoReader(path).pixel_aspect == Fraction(15, 16)


def test_opening_a_long_video_decodes_few_frames(tmp_path, monkeypatch):
    decoded = 0
    frames = Decoder.frames

    def counted(decoder):
        nonlocal decoded
        for frame in frames(decoder):
            decoded += 1
            yield frame

    monkeypatch.setattr(Decoder, "frames", counted)
    path = clip(tmp_path / "long.mp4", numbered_frames() * 10, **H264)
    reader = VideoReader(path)
    assert len(reader) == 10 * COUNT
    assert decoded < 40
    decoded = 0
    assert numbers([next(reader.frames_from(400))]) == [400 % COUNT]
    assert decoded < 40


def test_files_that_are_no_video_are_named(tmp_path):
    Image.fromarray(numbered_frames(1)[0]).save(tmp_path / "00000.jpg")
    Image.fromarray(numbered_frames(1)[0]).save(tmp_path / "photo.png")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    for name, message in (
        ("00000.jpg", r"00000\.jpg is a single picture, not a video; give the folder"),
        ("photo.png", r"photo\.png is a single picture"),
        ("sound.wav", r"sound\.wav holds no video"),
    ):
        with pytest.raises(ValueError, match=message):
            VideoReader(tmp_path / name)
    with pytest.raises(ValueError, match="video_path, 5000 bytes, is not a readable video"):
        VideoReader(np.random.default_rng(0).bytes(5000))


def test_names_that_look_like_addresses(tmp_path):
    path = clip(tmp_path / "12:30%03d.mp4", numbered_frames(3))
    assert len(VideoReader(path)) == 3
