"""How large what is uploaded may be, found out before anything of it is decoded."""

import dataclasses
import io
import itertools
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ..image.preprocess import as_rgb
from ..video.reader import BYTES_ALONE

__all__ = ["Limits", "Refused", "check_clip", "read_photo_bytes"]

# What Pillow may take a photo for; of its other formats some run other programs, as EPS does.
PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
# What FFmpeg may take a video for; of its other formats some are lists of addresses to read.
CLIP_FORMATS = ("mov", "matroska", "avi", "mpegts", "mpeg", "ogg", "asf", "flv", "gif")


class Refused(ValueError):  # noqa: N818 - nothing is wrong with the program
    """What was asked cannot be done; the message is for whoever asked."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is held for those who look at the page.

    Attributes:
      upload_bytes: of a file.
      photo_pixels: of a photo.
      frame_pixels: of a video's frame.
      frames: of a video.
      pages: photos and videos of at most so many pages are held; those used last stay.
      idle_seconds: what no one used for so long is put away.
    """

    upload_bytes: int = 100 * 2**20
    photo_pixels: int = 50_000_000
    frame_pixels: int = 3840 * 2160
    frames: int = 600
    pages: int = 8
    idle_seconds: float = 1800.0


def read_photo_bytes(data: bytes, limits: Limits) -> UInt8[np.ndarray, "h w 3"]:
    """The photo in a file's bytes, upright, as RGB.

    Raises:
      Refused: if it is none, or larger than `limits.photo_pixels`, which its header says before it is decoded.
    """
    most = f"{limits.photo_pixels / 1e6:.0f} megapixels"
    try:
        with Image.open(io.BytesIO(data), formats=PHOTO_FORMATS) as image:
            if image.width * image.height > limits.photo_pixels:
                raise Refused(f"The photo is {image.width} x {image.height} pixels; {most} are the most.")
            return _rgb(image)
    except Refused:
        raise
    except Image.DecompressionBombError as error:  # from the header too
        raise Refused(f"The photo has too many pixels; {most} are the most.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise Refused("The file is no photo that can be read: JPEG, PNG, WebP, TIFF, BMP or GIF.") from error


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    upright = ImageOps.exif_transpose(image)
    try:
        return np.ascontiguousarray(as_rgb(upright))
    except ValueError as error:
        raise Refused(f"The photo cannot be used: {error}.") from error


def check_clip(data: bytes, limits: Limits) -> None:
    """Makes sure that a file's bytes are a video within the limits; it is taken apart for that, not decoded.

    Raises:
      Refused: if it is none, or its frames are too large or too many.
    """
    import av

    # Of other formats, some would have FFmpeg read what the file names.
    options = {"format_whitelist": ",".join(CLIP_FORMATS), **BYTES_ALONE}
    try:
        container: Any = av.open(io.BytesIO(data), options=options, metadata_errors="replace")
        with container:
            streams = [stream for stream in container.streams.video if stream.codec_context is not None]
            if not streams:
                raise Refused("The file holds no video that can be decoded.")
            for stream in streams:
                if stream.width * stream.height > limits.frame_pixels:
                    raise Refused(
                        f"The video's frames are {stream.width} x {stream.height} pixels; "
                        f"{limits.frame_pixels / 1e6:.1f} megapixels are the most."
                    )
            packets = (packet for packet in container.demux(streams) if packet.size)
            if sum(1 for _ in itertools.islice(packets, limits.frames + 1)) > limits.frames:
                raise Refused(f"The video has more than {limits.frames} frames, which are the most; cut it.")
    except (av.FFmpegError, OSError) as error:
        raise Refused("The file is no video that can be read, such as MP4, WebM, MOV or AVI.") from error
