"""What is uploaded is refused by its size before it is decoded, and never leads anywhere else."""

import io

import numpy as np
import pytest
from PIL import Image
from videos import moving_frames, write_video

from sam2refiner_jax.web.limits import Limits, Refused, check_clip, read_photo_bytes

LIMITS = Limits(photo_pixels=5000, frame_pixels=64 * 48, frames=6)


def photo_bytes(form="PNG", size=(80, 60), mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size, 90).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_photos_of_the_usual_forms_are_read(form):
    assert read_photo_bytes(photo_bytes(form), LIMITS).shape == (60, 80, 3)


def test_a_photo_is_upright_and_of_three_colours():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert read_photo_bytes(photo_bytes("JPEG", exif=exif), LIMITS).shape == (80, 60, 3)
    assert read_photo_bytes(photo_bytes(mode="L"), LIMITS).shape == (60, 80, 3)
    assert read_photo_bytes(photo_bytes(mode="RGBA"), LIMITS).shape == (60, 80, 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_photo_of_too_many_pixels_is_never_decoded(form, monkeypatch):
    data = photo_bytes(form, (80, 63))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(Refused, match=r"80 x 63 pixels; 0 megapixels are the most"):
        read_photo_bytes(data, LIMITS)


def test_the_default_limits_refuse_200_megapixels_by_the_header():
    data = photo_bytes(size=(20000, 10000), mode="1")
    assert len(data) < 2**16
    with pytest.raises(Refused, match="50 megapixels are the most"):
        read_photo_bytes(data, Limits())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no photo",
        b"\x89PNG\r\n\x1a\n",
        photo_bytes()[:60],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
    ids=["empty", "text", "head", "cut", "eps", "svg"],
)
def test_what_is_no_photo_is_refused(data):
    with pytest.raises(Refused, match="no photo that can be read"):
        read_photo_bytes(data, LIMITS)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.ts"])
def test_videos_within_the_limits_pass_and_longer_ones_do_not(tmp_path, name):
    check_clip(write_video(tmp_path / name, moving_frames(6, 48, 64)).read_bytes(), LIMITS)
    with pytest.raises(Refused, match="more than 6 frames"):
        check_clip(write_video(tmp_path / name, moving_frames(7, 48, 64)).read_bytes(), LIMITS)


def test_a_video_of_too_large_frames_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"66 x 48 pixels; 0\.0 megapixels are the most"):
        check_clip(write_video(tmp_path / "clip.mp4", moving_frames(2, 48, 66)).read_bytes(), LIMITS)


def test_no_upload_makes_ffmpeg_read_a_file(tmp_path, monkeypatch):
    """A playlist names what is to be played, and FFmpeg would open it, at least where it runs."""
    monkeypatch.chdir(tmp_path)
    clip = write_video(tmp_path / "clip.mp4", moving_frames(2, 48, 64))
    stream = write_video(tmp_path / "clip.ts", moving_frames(2, 48, 64))
    playlists = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{stream}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{clip}'\n",
        "concat here": "ffconcat version 1.0\nfile clip.mp4\n",
        "text": "no video\n" * 100,
    }
    for text in playlists.values():
        with pytest.raises(Refused, match="no video that can be read"):
            check_clip(text.encode(), Limits())
    with pytest.raises(Refused, match="no video"):
        check_clip(photo_bytes(), Limits())
    with pytest.raises(Refused, match="no video"):
        check_clip(np.random.default_rng(0).bytes(5000), Limits())
