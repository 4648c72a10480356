"""Pictures that show masks and prompts on a photo."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

__all__ = ["PALETTE", "draw_captions", "draw_overlay"]

# Distinct on photos; objects take them in turn.
PALETTE = np.array(
    [(230, 57, 70), (29, 131, 236), (255, 183, 3), (46, 196, 120), (181, 87, 222), (0, 201, 214), (255, 120, 40)],
    np.uint8,
)
OPACITY = 0.5
POSITIVE_COLOUR, NEGATIVE_COLOUR = (40, 220, 80), (235, 40, 40)


def draw_overlay(
    photo: UInt8[np.ndarray, "h w 3"],
    masks: Bool[np.ndarray, "objects h w"],
    *,
    colours: Sequence[int] | Integer[np.ndarray, " objects"] | None = None,
    points: Float[np.ndarray, "n 2"] | None = None,
    labels: np.ndarray | None = None,
    boxes: Float[np.ndarray, "k 4"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with each mask tinted and outlined in its colour, clicks as dots and boxes as frames.

    Args:
      photo: RGB.
      masks: one per object.
      colours: the place of each object's colour in `PALETTE`, which starts again at its end; by default in turn.
      points: clicks, x and y in pixels; green where their label is 1, red where it is 0.
      labels: the clicks' labels, (n,).
      boxes: x0, y0, x1, y1 in pixels.
    """
    picture = photo.copy()
    thickness = max(1, round(max(photo.shape[:2]) / 500))
    for i, mask in zip(range(len(masks)) if colours is None else colours, masks, strict=True):
        colour = PALETTE[int(i) % len(PALETTE)]
        picture[mask] = (picture[mask] * (1 - OPACITY) + colour * OPACITY).astype(np.uint8)
        outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outline, -1, colour.tolist(), thickness)
    for i, (x0, y0, x1, y1) in enumerate(np.zeros((0, 4)) if boxes is None else boxes):
        corners = (round(float(x0)), round(float(y0))), (round(float(x1)), round(float(y1)))
        cv2.rectangle(picture, *corners, PALETTE[i % len(PALETTE)].tolist(), 2 * thickness)
    if points is not None and labels is not None:
        for (x, y), label in zip(points, labels, strict=True):
            centre, radius = (round(float(x)), round(float(y))), 5 * thickness
            cv2.circle(picture, centre, radius, POSITIVE_COLOUR if label else NEGATIVE_COLOUR, -1, cv2.LINE_AA)
            cv2.circle(picture, centre, radius, (255, 255, 255), thickness, cv2.LINE_AA)
    return picture


def draw_captions(
    photo: UInt8[np.ndarray, "h w 3"], masks: Bool[np.ndarray, "objects h w"], captions: Sequence[str]
) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with a line of text above each mask, or in it where there is no room above; none for empty masks.

    Args:
      photo: RGB.
      masks: one per object.
      captions: one per object, in ASCII.
    """
    picture = photo.copy()
    height, width = photo.shape[:2]
    scale = max(0.4, max(height, width) / 1600)
    font = cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), max(1, round(1.5 * scale)), cv2.LINE_AA
    for mask, caption in zip(masks, captions, strict=True):
        if not mask.any():
            continue
        top, left = int(mask.any(axis=1).argmax()), int(mask.any(axis=0).argmax())
        (length, ascent), descent = cv2.getTextSize(caption, font[0], scale, font[3])
        tall = ascent + descent
        x = max(0, min(left, width - length))
        y = top - tall if top >= tall else min(top, height - tall)
        picture[max(0, y) : y + tall, x : x + length] //= 4  # a dark ground, on any photo
        cv2.putText(picture, caption, (x, y + ascent), *font)
    return picture
