"""EfficientTAM in PyTorch, written after its paper (arXiv 2411.18933) and configurations: what the sam2 package lacks.

It is that package's model with another image encoder and, in some, another attention to memories. Windows are a mask
and pooling is a matrix here, which is slow and says what is meant. `benchmarks/efficienttam.py --reference` compares it
with the official code.
"""

import dataclasses
import itertools
import math
import re
from pathlib import Path

import torch
from official import build_official
from sam2.modeling.position_encoding import PositionEmbeddingSine, apply_rotary_enc
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_utils import MLP, LayerNorm2d
from torch import nn

from sam2refiner_jax import PRESETS, SAM2Config

PATCH = 16
# The first block that attends to the whole image, and one after it.
FEW_BLOCKS = {"depth": 4, "global_att_blocks": (1, 3)}


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, allowed):
        b, n, c = x.shape
        q, k, v = (part.reshape(b, n, self.heads, c // self.heads) for part in self.qkv(x).split(c, dim=-1))
        logits = torch.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(c // self.heads)
        weights = logits.masked_fill(~allowed, -math.inf).softmax(dim=-1)
        return self.proj(torch.einsum("bhqk,bkhc->bqhc", weights, v).reshape(b, n, c))


class Block(nn.Module):
    """A block of a ViT on a map that is padded to whole windows, of which the padding is zero wherever it is read."""

    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.mlp = MLP(dim, 4 * dim, dim, 2, activation=nn.GELU)

    def forward(self, x, is_image, allowed):
        x = x + self.attn(self.norm1(x) * is_image, allowed)
        return x + self.mlp(self.norm2(x))


class Trunk(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, config.embed_dim, PATCH, stride=PATCH)})
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.pos_embed_size**2, config.embed_dim))
        self.blocks = nn.ModuleList(Block(config.embed_dim, config.num_heads) for _ in range(config.depth))

    def forward(self, image):
        x = self.patch_embed["proj"](image)
        side, (height, width) = self.config.pos_embed_size, x.shape[2:]
        places = self.pos_embed[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
        x = x + nn.functional.interpolate(places, (height, width), mode="bicubic", align_corners=False)
        window = self.config.window_size
        padded = nn.functional.pad(x, (0, -width % window, 0, -height % window))
        row, column = torch.meshgrid(*map(torch.arange, padded.shape[2:]), indexing="ij")
        is_image = ((row < height) & (column < width)).reshape(-1, 1)
        of_window = (row // window * padded.shape[3] + column // window).flatten()
        windows, everywhere = of_window[:, None] == of_window, is_image.T
        x = padded.flatten(2).transpose(1, 2)
        for i, block in enumerate(self.blocks):
            x = block(x, is_image, everywhere if i in self.config.global_att_blocks else windows)
        return x.transpose(1, 2).reshape(padded.shape)[:, :, :height, :width]


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim = config.hidden_dim
        self.trunk = Trunk(config.trunk)
        level = {
            "conv_1x1": nn.Conv2d(config.trunk.embed_dim, dim, 1, bias=False),
            "norm_0": LayerNorm2d(dim),
            "conv_3x3": nn.Conv2d(dim, dim, 3, padding=1, bias=False),
            "norm_1": LayerNorm2d(dim),
        }
        self.neck = nn.ModuleDict({"convs": nn.ModuleList([nn.ModuleDict(level)])})
        self.encoding = PositionEmbeddingSine(dim)

    def forward(self, image):
        x = self.trunk(image)
        for part in self.neck["convs"][0].values():
            x = part(x)
        return {"vision_features": x, "vision_pos_enc": [self.encoding(x)], "backbone_fpn": [x]}


class PooledAttention(RoPEAttention):
    """Attention to the means of every 2 x 2 places of several maps, as if each stood for four."""

    pooling: str

    def forward(self, q, k, v, num_k_exclude_rope=0):
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        places, of_maps = q.shape[1], k.shape[1] - num_k_exclude_rope
        q, turned = apply_rotary_enc(q[:, None], k[:, None, :of_maps], self._rotations(places), repeat_freqs_k=True)
        q, k = q[:, 0], torch.cat([turned[:, 0], k[:, of_maps:]], dim=1)
        gain = torch.zeros(k.shape[1])
        if of_maps > places:
            means = pooling_matrix(places, of_maps // places, num_k_exclude_rope)
            k, v = means @ k, means @ v
            gain = math.log(4) * (torch.arange(len(means)) < of_maps // 4)
            if self.pooling == "keys":
                k, gain = k + gain[:, None], torch.zeros(len(means))
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + gain).softmax(dim=-1)
        return self.out_proj(weights @ v)

    def _rotations(self, places):
        side = math.isqrt(places)
        return self.compute_cis(end_x=side, end_y=side)


def pooling_matrix(places: int, maps: int, pointers: int) -> torch.Tensor:
    """Which places each mean is of, a quarter each; pointers stay what they are."""
    side = math.isqrt(places)
    one = torch.zeros(places // 4, places)
    for y, x in itertools.product(range(side), repeat=2):
        one[y // 2 * (side // 2) + x // 2, y * side + x] = 1 / 4
    return torch.block_diag(*[one] * maps, torch.eye(pointers))


def official_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in an official file, as they are listed."""
    width, shapes = PRESETS[name].trunk.embed_dim, {}
    for line in (Path(__file__).parent / "efficienttam_tensors.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        key, *sizes = line.split()
        shape = tuple(int(size.removesuffix("C") or 1) * (width if size.endswith("C") else 1) for size in sizes)
        numbers = re.search(r"\{(\d+)-(\d+)\}", key)
        for number in range(int(numbers[1]), int(numbers[2]) + 1) if numbers else [None]:
            shapes[key if numbers is None else key.replace(numbers[0], str(number))] = shape
    return shapes


def config_of(name: str, image_size: int, few_blocks: bool = True) -> SAM2Config:
    """The preset at another input size, with a trunk that is cut short."""
    trunk = dataclasses.replace(PRESETS[name].trunk, **(FEW_BLOCKS if few_blocks else {}))
    return dataclasses.replace(PRESETS[name], trunk=trunk, image_size=image_size)


def build_reference(config: SAM2Config, *, video: bool = False) -> nn.Module:
    """The reference of this configuration, as the sam2 package's model or video predictor."""
    model = build_official(
        "sam2_hiera_t",
        few_blocks=True,
        video=video,
        image_size=config.image_size,
        use_high_res_features_in_sam=False,
        **{"memory_attention.num_layers": config.memory_layers},
    )
    model.image_encoder = Encoder(config)
    if config.memory_pooling != "none":
        for layer in model.memory_attention.layers:
            layer.cross_attn_image.__class__ = PooledAttention
            layer.cross_attn_image.pooling = config.memory_pooling
    return model.eval()
