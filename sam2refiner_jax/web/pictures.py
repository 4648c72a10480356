"""What the page shows, as addresses that hold the picture itself, so that no file is made and none can be asked for."""

import base64
import io
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image

from ..image.overlay import OPACITY, PALETTE

__all__ = ["at_size", "data_url", "encoded", "jpeg", "mask_png", "overlay_png", "resized", "shown_size"]

# The longer side of what is shown, in pixels; larger photos are shown smaller.
SHOWN_SIDE = 1280
JPEG_QUALITY = 88


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a photo is shown."""
    scale = min(1.0, SHOWN_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def at_size(mask: Bool[np.ndarray, "_ _"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask at another height and width; a pixel is on the object if most of what it stands for is."""
    if mask.shape == size:
        return mask
    return cv2.resize(mask.view(np.uint8) * np.uint8(255), size[::-1], interpolation=cv2.INTER_AREA) > 127


def resized(photo: UInt8[np.ndarray, "_ _ 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """A photo at another height and width."""
    return photo if photo.shape[:2] == size else cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA)


def jpeg(photo: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> bytes:
    """The photo at a height and width, as a JPEG."""
    return encoded(Image.fromarray(resized(photo, size)), "JPEG", quality=JPEG_QUALITY)


def mask_png(mask: Bool[np.ndarray, "h w"]) -> bytes:
    """The mask as `sam2refiner segment` writes it: white on the object."""
    return encoded(Image.fromarray(mask.view(np.uint8) * np.uint8(255)), "PNG")


def overlay_png(masks: Sequence[Bool[np.ndarray, "h w"]], colours: Sequence[int] | Integer[np.ndarray, " n"]) -> bytes:
    """Masks to lay over the photo, tinted and outlined, transparent elsewhere; later ones hide earlier ones.

    Args:
      masks: at least one, all of one size.
      colours: the place of each one's colour in `PALETTE`, which starts again at its end.
    """
    values = np.zeros(masks[0].shape, np.uint8)  # 0 where there is none, then each colour's tint and outline
    for mask, colour in zip(masks, colours, strict=True):
        tint = 1 + 2 * (int(colour) % len(PALETTE))
        values[mask] = tint
        outline, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(values, outline, -1, tint + 1, 1)
    picture = Image.fromarray(values)
    picture.putpalette(bytes(3) + np.repeat(PALETTE, 2, axis=0).tobytes())
    opacities = bytes([0, *[round(255 * OPACITY), 255] * len(PALETTE)])
    return encoded(picture, "PNG", transparency=opacities, compress_level=1)


def data_url(data: bytes, kind: str) -> str:
    """An address that is the data itself, of a kind such as "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    """The bytes of a file of a picture, in a form such as "PNG"."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()
