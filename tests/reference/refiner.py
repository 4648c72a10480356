"""SAM2Refiner in PyTorch, written from the paper and its decided details: the independent reference of the refiner."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


def sine_code(size, dim, scale):
    """DETR's code at the centres of a size x size map: y in the first half of the channels, x in the second."""
    place = (torch.arange(size, dtype=torch.float32) + 0.5) / size * scale
    half = dim // 2
    frequency = 10000 ** (2 * torch.div(torch.arange(half), 2, rounding_mode="floor") / half)
    y, x = torch.meshgrid(place, place, indexing="ij")
    codes = []
    for coordinate in (y, x):
        angle = coordinate[..., None] / frequency
        codes.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2))
    return torch.cat(codes, dim=-1)  # h, w, c


class ChannelNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        return F.layer_norm(x.movedim(1, -1), x.shape[1:2], self.weight, self.bias, 1e-6).movedim(-1, 1)


class Attention(nn.Module):
    def __init__(self, dim, heads, inner=None):
        super().__init__()
        inner = inner or dim
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q, k, v):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class Layers(nn.Module):
    def __init__(self, *dims, activation):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(dims))
        self.activation = activation

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class LocalizationAugment(nn.Module):
    def __init__(self, dim, config):
        super().__init__()
        self.windows, self.scale = config.pool_windows, config.position_scale
        self.norm_q, self.norm_kv, self.norm_mlp = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.attn = Attention(dim, config.augment_heads)
        self.mlp = Layers(dim, config.augment_mlp_dim, dim, activation=F.gelu)

    def forward(self, g, views):
        """G (b, c, h, w) and the quarters' features, a list of four (b, c, h, w), row by row."""
        top, bottom = torch.cat(views[:2], dim=3), torch.cat(views[2:], dim=3)
        whole = torch.cat([top, bottom], dim=2)
        pooled = [F.avg_pool2d(whole, n, n) for n in self.windows]
        dim, side = g.shape[1:3]
        tokens = g.flatten(2).transpose(1, 2)
        keys = self.norm_kv(torch.cat([p.flatten(2).transpose(1, 2) for p in pooled], dim=1))
        codes = torch.cat([sine_code(p.shape[-1], dim, self.scale).flatten(0, 1) for p in pooled])
        own = sine_code(side, dim, self.scale).flatten(0, 1)
        tokens = tokens + self.attn(self.norm_q(tokens) + own, keys + codes, keys)
        tokens = tokens + self.mlp(self.norm_mlp(tokens))
        return tokens.transpose(1, 2).unflatten(2, g.shape[2:])


class TwoWayBlock(nn.Module):
    def __init__(self, dim, heads, mlp_dim):
        super().__init__()
        self.self_attn = Attention(dim, heads)
        self.cross_attn_token_to_image = Attention(dim, heads, dim // 2)
        self.cross_attn_image_to_token = Attention(dim, heads, dim // 2)
        self.mlp = Layers(dim, mlp_dim, dim, activation=F.relu)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim) for _ in range(4))

    def forward(self, tokens, image, image_pe):
        pe = tokens
        q = tokens + pe
        tokens = self.norm1(tokens + self.self_attn(q, q, tokens))
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        return self.norm4(image + self.cross_attn_image_to_token(image + image_pe, tokens + pe, tokens))


class ReceptiveField(nn.Module):
    def __init__(self, dim):
        super().__init__()
        inner = dim // 4
        self.branches = nn.ModuleList(
            nn.ModuleDict(
                {
                    "reduce": nn.Conv2d(dim, inner, 1),
                    "row": nn.Conv2d(inner, inner, (1, n), padding=(0, n // 2)),
                    "column": nn.Conv2d(inner, inner, (n, 1), padding=(n // 2, 0)),
                }
            )
            for n in (3, 5, 7)
        )
        self.merge, self.shortcut = nn.Conv2d(3 * inner, dim, 1), nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        branches = [F.gelu(b["column"](b["row"](F.gelu(b["reduce"](x))))) for b in self.branches]
        return self.merge(torch.cat(branches, dim=1)) + self.shortcut(x)


class DensePrompt(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 2, 2), ChannelNorm(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 64, 2, 2), ChannelNorm(64)
        self.conv3 = nn.Conv2d(64, dim, 1)

    def forward(self, x):
        return self.conv3(F.gelu(self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x)))))))


class PromptRetargeting(nn.Module):
    def __init__(self, dim, config):
        super().__init__()
        self.radius = config.click_radius
        self.receptive_field = ReceptiveField(dim)
        self.dense_prompt = DensePrompt(dim)
        self.block = TwoWayBlock(dim, config.retarget_heads, config.retarget_mlp_dim)

    def clicks(self, clicks, side, stride):
        """Disks, pixel by pixel, around (x, y, label) in pixels of the input."""
        maps = torch.zeros(2, side, side)
        for x, y, label in clicks:
            for i in range(side):
                for j in range(side):
                    if math.hypot(j + 0.5 - (x + 0.5) / stride, i + 0.5 - (y + 0.5) / stride) <= self.radius:
                        maps[0 if label == 1 else 1, i, j] = 1
        return maps

    def forward(self, embedding, mask, clicks, output_tokens, sparse, image_pe):
        """One object: (1, c, h, w), logits (1, m, m), clicks, (1, 6, c), (1, n, c), (1, c, h, w)."""
        side = mask.shape[-1]
        drawn = self.clicks(clicks, side, 4)
        dense = self.dense_prompt(torch.cat([drawn, mask.sigmoid()])[None])
        image = (self.receptive_field(embedding) + dense).flatten(2).transpose(1, 2)
        pe = image_pe.flatten(2).transpose(1, 2)
        image = self.block(torch.cat([output_tokens, sparse], dim=1), image, pe)
        return image.transpose(1, 2).unflatten(2, embedding.shape[2:])


class Block(nn.Module):
    def __init__(self, dim, stage_dim, dim_out):
        super().__init__()
        self.stage_proj = nn.Conv2d(stage_dim, dim_out, 1)
        self.stage_conv = nn.Conv2d(dim_out, dim_out, 3, bias=False)
        self.conv = nn.Conv2d(dim, dim_out, 3)
        self.norm = ChannelNorm(dim_out)

    def forward(self, x, stage):
        x = F.interpolate(x, stage.shape[2:], mode="bilinear", align_corners=False)
        joined = torch.cat([x, self.stage_proj(stage)], dim=1)
        kernel = torch.cat([self.conv.weight, self.stage_conv.weight], dim=1)
        return F.gelu(self.norm(F.conv2d(joined, kernel, self.conv.bias, padding=1)))


class MaskRefinement(nn.Module):
    def __init__(self, dim, stage_dims, config):
        super().__init__()
        dims, (up1, up2) = (dim, *config.block_dims), config.upscale_dims
        self.residual = config.residual_mask
        self.blocks = nn.ModuleList(
            Block(a, s, b) for a, s, b in zip(dims, reversed(stage_dims), dims[1:], strict=False)
        )
        self.auxiliary = nn.ModuleList(nn.Conv2d(d, 1, 1) for d in dims[1:])
        self.up1, self.norm = nn.ConvTranspose2d(dims[-1], up1, 2, 2), ChannelNorm(up1)
        self.up2 = nn.ConvTranspose2d(up1, up2, 2, 2)
        self.image_conv, self.out = nn.Conv2d(3, up2, 3, padding=1), nn.Conv2d(up2, 1, 3, padding=1)

    def forward(self, x, stages, image, mask):
        auxiliary = []
        for block, head, stage in zip(self.blocks, self.auxiliary, reversed(stages), strict=True):
            x = block(x, stage)
            auxiliary.append(head(x)[:, 0])
        x = F.gelu(self.norm(self.up1(x)))
        x = F.gelu(self.up2(x) + self.image_conv(image))
        refined = self.out(x)
        if self.residual:
            refined = refined + F.interpolate(mask[None], refined.shape[2:], mode="bilinear", align_corners=False)
        return refined[:, 0], auxiliary


class Head(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.up1, self.norm = nn.ConvTranspose2d(dim, dim // 4, 2, 2), ChannelNorm(dim // 4)
        self.up2, self.out = nn.ConvTranspose2d(dim // 4, dim // 8, 2, 2), nn.Conv2d(dim // 8, 1, 1)

    def forward(self, x):
        return self.out(F.gelu(self.up2(F.gelu(self.norm(self.up1(x))))))[:, 0]


class TorchRefiner(nn.Module):
    """The whole, for one object of one image; what SAM 2 gives comes from outside."""

    def __init__(self, config, hidden_dim, stage_dims):
        super().__init__()
        if config.localization_augment:
            self.localization_augment = LocalizationAugment(hidden_dim, config)
        if config.prompt_retargeting:
            self.prompt_retargeting = PromptRetargeting(hidden_dim, config)
        if config.mask_refinement:
            self.mask_refinement = MaskRefinement(hidden_dim, stage_dims, config)
        elif config.prompt_retargeting:
            self.head = Head(hidden_dim)

    def augment(self, g, views):
        return self.localization_augment(g, views) if hasattr(self, "localization_augment") else g

    def forward(self, embedding, mask, clicks, output_tokens, sparse, image_pe, stages, image):
        if hasattr(self, "prompt_retargeting"):
            embedding = self.prompt_retargeting(embedding, mask, clicks, output_tokens, sparse, image_pe)
        if hasattr(self, "mask_refinement"):
            return self.mask_refinement(embedding, stages, image, mask)
        if hasattr(self, "head"):
            mask = self.head(embedding)
        size = (4 * mask.shape[-1],) * 2
        return F.interpolate(mask[None], size, mode="bilinear", align_corners=False)[0], []
