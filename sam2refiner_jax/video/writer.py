"""Videos that players and browsers show, written by PyAV, which is imported with the first of them."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from .frames import FRAME_RATE

__all__ = ["write_video"]


def write_video(
    target: Path | io.BytesIO,
    pictures: Iterable[tuple[int, UInt8[np.ndarray, "h w 3"]]],
    times: Sequence[Fraction],
    *,
    pixel_aspect: Fraction = Fraction(1),
    tags: Mapping[str, str] | None = None,
) -> None:
    """Writes pictures as an MP4, each shown from its time on, the first at once.

    The last row and column of odd sides, which the encoder cannot have, are not in it; a side of one pixel is doubled.

    Args:
      target: the file, or a buffer that takes its bytes.
      pictures: RGB, all of one size, each with its place in `times`, in ascending order; at least one.
      times: in seconds, ascending.
      pixel_aspect: width by height of a pixel.
      tags: the file's metadata.
    """
    import av

    # The coarsest unit that all times are whole numbers of, as far as the encoder and players have it.
    codec, finest = ("libx264", 90000) if "libx264" in av.codecs_available else ("mpeg4", 65535)
    unit = Fraction(1, min(math.lcm(*(time.denominator for time in times)), finest))
    rate = Fraction(len(times) - 1, times[-1]) if len(times) > 1 else Fraction(FRAME_RATE)
    file: Any = str(target) if isinstance(target, Path) else target
    with av.open(file, "w", format="mp4") as container:
        container.metadata.update(tags or {})
        stream: Any = container.add_stream(codec, rate=rate.limit_denominator(1001))
        stamp, start = -1, Fraction(0)
        for index, picture in pictures:
            if stamp < 0:
                start = times[index]
                stream.height, stream.width = (max(2, side - side % 2) for side in picture.shape[:2])
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = unit
                stream.codec_context.sample_aspect_ratio = pixel_aspect
            padded = np.pad(picture, ((0, 1), (0, 1), (0, 0)), mode="edge")[: stream.height, : stream.width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
            stamp = max(stamp + 1, round((times[index] - start) / unit))
            frame.pts, frame.time_base = stamp, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
