"""SAM-REF in PyTorch, NumPy and SciPy, written from the paper's description: the refiner's independent reference."""

import math

import numpy as np
import scipy.ndimage
import torch
from refiner import ChannelNorm
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(dim, dim, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = ChannelNorm(dim), ChannelNorm(dim)

    def forward(self, x):
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Fusion(nn.Module):
    """emb(I) + emb(D) + F', then blocks after each of which F' is added again, then two heads."""

    def __init__(self, dim, width, blocks):
        super().__init__()
        self.image_conv1, self.image_conv2 = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.prompt_conv1, self.prompt_conv2 = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.feature_proj = nn.Conv2d(dim, width, 1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.error_head, self.detail_head = (nn.Conv2d(width, 1, 3, padding=1) for _ in range(2))

    def forward(self, image, prompt_map, features):
        x = self.image_conv2(F.relu(self.image_conv1(image)))
        x = x + self.prompt_conv2(F.relu(self.prompt_conv1(prompt_map))) + features
        for block in self.blocks:
            x = block(x) + features
        return self.error_head(x)[:, 0], self.detail_head(x)[:, 0]


class SAMRefMirror(nn.Module):
    """One object at a time; positions are in [0, 1] of the image."""

    def __init__(self, dim, size, config):
        super().__init__()
        self.size, self.side, self.config = size, size // config.stride, config
        self.whole = Fusion(dim, config.width, config.blocks)
        self.window = Fusion(dim, config.width, config.blocks)

    @torch.no_grad()
    def forward(self, image, embedding, coarse, points, labels, before, errors_before):
        """image (3, s, s), embedding (c, h, h), coarse (m, m), points (n, 2) pixels, before (s, s)."""
        full = [self.size, self.size]
        features = self.whole.feature_proj(embedding[None])
        coarse_map = _resize(coarse, self.side)
        prompt_map = torch.stack([*_disks(points, labels, self.size, self.side, self.config.click_radius), coarse_map])
        small = F.interpolate(image[None], size=[self.side, self.side], mode="bilinear", antialias=True)
        errors, detail = self.whole(small, prompt_map[None], _resize_map(features, self.side))
        share = torch.sigmoid(errors)
        whole = (share * detail + (1 - share) * coarse_map)[0]
        count = int((share > self.config.error_threshold).sum())
        mask = F.interpolate(whole[None, None], size=full, mode="bilinear")[0, 0]

        window = find_window(whole.numpy(), before, points, labels, self.size, self.config)
        local_coarse = cut(mask[None].numpy(), window, self.side)[0]
        x0, y0, x1, y1 = window
        moved = [
            (((x + 0.5) / self.size - x0) / (x1 - x0), ((y + 0.5) / self.size - y0) / (y1 - y0)) for x, y in points
        ]
        moved = np.array(moved) * self.size - 0.5
        prompt_map = np.stack([*_disks(moved, labels, self.size, self.side, self.config.click_radius), local_coarse])
        features = self.window.feature_proj(embedding[None])[0].numpy()
        errors, detail = self.window(
            *(torch.tensor(x)[None].float() for x in (cut(image.numpy(), window, self.side), prompt_map)),
            torch.tensor(cut(features, window, self.side))[None].float(),
        )
        share = torch.sigmoid(errors)
        local = (share * detail + (1 - share) * torch.tensor(local_coarse).float())[0].numpy()
        trusts = errors_before < 0 or count <= self.config.growth * errors_before
        onto = mask.numpy() if trusts else before
        return paste(local, window, onto), count, window


def _resize(mask, side):
    return F.interpolate(mask[None, None], size=[side, side], mode="bilinear")[0, 0]


def _resize_map(features, side):
    return F.interpolate(features, size=[side, side], mode="bilinear")


def _disks(points, labels, size, side, radius):
    maps = torch.zeros(2, side, side)
    for (px, py), label in zip(points, labels, strict=True):
        if label not in (0, 1):
            continue
        for row in range(side):
            for column in range(side):
                dx, dy = column + 0.5 - (px + 0.5) * side / size, row + 0.5 - (py + 0.5) * side / size
                if dx * dx + dy * dy <= radius**2:
                    maps[1 - label, row, column] = 1
    return maps


def largest_region(mask):
    labels, count = scipy.ndimage.label(mask, np.ones((3, 3)))
    sizes = [(labels == i).sum() for i in range(1, count + 1)]
    best = [i for i in range(count) if sizes[i] == max(sizes)]
    last = max(best, key=lambda i: np.flatnonzero(labels.ravel() == i + 1)[-1])
    return labels == last + 1


def bounds(mask):
    """x0, y0, x1, y1 of the outer edges."""
    y, x = np.nonzero(mask)
    side = len(mask)
    return (x.min() / side, y.min() / side, (x.max() + 1) / side, (y.max() + 1) / side)


def grown(window, factor, least=0.0):
    out = []
    for low, high in ((window[0], window[2]), (window[1], window[3])):
        length = min(max((high - low) * factor, least), 1.0)
        start = min(max((low + high) / 2 - length / 2, 0.0), 1.0 - length)
        out.append((start, start + length))
    return (out[0][0], out[1][0], out[0][1], out[1][1])


def find_window(now, before, points, labels, size, config):
    """FocalClick's rules: around what changed, around the click where that is small, the object at first."""
    before = F.interpolate(torch.tensor(before)[None, None], size=list(now.shape), mode="bilinear", antialias=True)
    now, before = now > 0, before[0, 0].numpy() > 0
    everything = bounds(now) if now.any() else (0.0, 0.0, 1.0, 1.0)
    clicks = [p for p, label in zip(points, labels, strict=True) if label in (0, 1)]
    if not before.any() or not clicks:
        boxes = [p / size for p, label in zip(points, labels, strict=True) if label in (2, 3)]
        first = np.clip(np.concatenate(boxes), 0, 1) if boxes else everything
        return grown(grown(first, config.enlargement), 1.0, config.least_window)
    height, width = everything[3] - everything[1], everything[2] - everything[0]
    changed = now ^ before
    if changed.any():
        window = bounds(largest_region(changed))
        if (
            window[2] - window[0] >= config.small_region * width
            and window[3] - window[1] >= config.small_region * height
        ):
            return grown(grown(window, config.enlargement), 1.0, config.least_window)
    x, y = (clicks[-1] + 0.5) / size
    half = config.click_window * max(height, width)
    return grown((x - half, y - half, x + half, y + half), 1.0, config.least_window)


def _taps(position, size, reach):
    """Pixels and weights of a triangle of this reach around a position within the image."""
    position = min(max(position, 0), size - 1)
    first, last = max(0, math.ceil(position - reach)), min(size - 1, math.floor(position + reach))
    weights = {i: max(0.0, 1 - abs(i - position) / reach) for i in range(first, last + 1)}
    total = sum(weights.values())
    return {i: w / total for i, w in weights.items()}


def _resample(planes, rows, columns):
    out = np.zeros((len(planes), len(rows), len(columns)))
    for y, in_y in enumerate(rows):
        line = sum(weight * planes[:, i] for i, weight in in_y.items())
        for x, in_x in enumerate(columns):
            out[:, y, x] = sum(weight * line[:, i] for i, weight in in_x.items())
    return out


def cut(planes, window, side):
    """The window of planes (c, h, w) at side x side."""
    axes = []
    for low, high, size in ((window[1], window[3], planes.shape[1]), (window[0], window[2], planes.shape[2])):
        step = (high - low) * size / side
        axes.append([_taps(low * size + (i + 0.5) * step - 0.5, size, max(step, 1)) for i in range(side)])
    return _resample(planes.astype(np.float64), *axes)


def paste(piece, window, onto):
    """`onto` with the piece in the window."""
    result, side = np.array(onto), len(piece)
    places = []
    for low, high, size in ((window[1], window[3], onto.shape[0]), (window[0], window[2], onto.shape[1])):
        here = [i for i in range(size) if low <= (i + 0.5) / size < high]
        reach = max(1, side / ((high - low) * size))
        places.append((here, [_taps(((i + 0.5) / size - low) / (high - low) * side - 0.5, side, reach) for i in here]))
    (rows, in_rows), (columns, in_columns) = places
    result[np.ix_(rows, columns)] = _resample(piece[None].astype(np.float64), in_rows, in_columns)[0]
    return result
