"""The official PyTorch package as the reference: models with every parameter randomised, and ours with the same."""

import contextlib
import dataclasses
import functools
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch

from sam2refiner_jax import PRESETS, SAM2, SAM2Config
from sam2refiner_jax.checkpoints import BUNDLED, describe_weights, model_from_weights
from sam2refiner_jax.convert import export_checkpoint, weights_from_official
from sam2refiner_jax.convert.naming import official_key, our_layout, torch_axes

# All kinds of block that a trunk has: the first of a stage and others, within windows and over the whole map.
FEW_BLOCKS = {"stages": (1, 2, 3, 1), "global_att_blocks": (4,)}
FEW_LAYERS = 2
PRESET_NAMES = [f"{version}_hiera_{size}" for version in ("sam2", "sam2.1") for size in ("t", "s", "b+", "l")]


class ToTensor:
    def __call__(self, image):
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return tensor.float().div(255) if tensor.dtype == torch.uint8 else tensor


class Resize(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, image):
        resized = torch.nn.functional.interpolate(
            image[None], self.size, mode="bilinear", align_corners=False, antialias=True
        )
        return resized[0]


class Normalize(torch.nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))

    def forward(self, image):
        return (image - self.mean) / self.std


def box_area(boxes):
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def batched_nms(boxes, scores, categories, iou_threshold):
    """Of one category; one box after the other."""
    areas, gone, kept = box_area(boxes), torch.zeros(len(boxes), dtype=torch.bool), []
    for i in torch.argsort(scores, descending=True, stable=True).tolist():
        if not gone[i]:
            kept.append(i)
            sides = torch.minimum(boxes[i, 2:], boxes[:, 2:]) - torch.maximum(boxes[i, :2], boxes[:, :2])
            overlap = sides.clamp(min=0).prod(dim=1)
            gone |= overlap / (areas[i] + areas - overlap) > iou_threshold
    return torch.tensor(kept, dtype=torch.long)


@contextlib.contextmanager
def torchvision_stand_in():
    """What the official image predictor and mask generator import of torchvision, on torch's own functions.

    torchvision has no build for CPU-only PyTorch on every platform; its tensor `Resize` is this `interpolate` call.
    """
    transforms = types.ModuleType("torchvision.transforms")
    transforms.ToTensor, transforms.Resize, transforms.Normalize = ToTensor, Resize, Normalize
    boxes = types.ModuleType("torchvision.ops.boxes")
    boxes.batched_nms, boxes.box_area = batched_nms, box_area
    package, operations = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    package.transforms, package.ops, operations.boxes = transforms, operations, boxes
    script = torch.jit.script
    torch.jit.script = lambda module: module
    sys.modules["torchvision"], sys.modules["torchvision.transforms"] = package, transforms
    sys.modules["torchvision.ops"], sys.modules["torchvision.ops.boxes"] = operations, boxes
    try:
        yield
    finally:
        torch.jit.script = script


def build_official(
    name: str,
    *,
    checkpoint: str | None = None,
    few_blocks: bool = False,
    video: bool = False,
    vos_optimized: bool = False,
    **overrides,
) -> torch.nn.Module:
    """The official model, or video predictor, of this name.

    `few_blocks` cuts its trunk (`FEW_BLOCKS`) and memory attention (`FEW_LAYERS`), `vos_optimized` has the predictor's
    parts compiled.
    """
    from sam2.build_sam import build_sam2, build_sam2_video_predictor

    if few_blocks:
        trunk = {f"image_encoder.trunk.{key}": list(value) for key, value in FEW_BLOCKS.items()}
        overrides = {**trunk, "memory_attention.num_layers": FEW_LAYERS, **overrides}
    extra = [f"++model.{key}={value}" for key, value in overrides.items()]
    torch.manual_seed(0)
    settings = {"ckpt_path": checkpoint, "device": "cpu", "hydra_overrides_extra": extra}
    config = f"configs/{name.split('_')[0]}/{name}.yaml"
    if video:
        return build_sam2_video_predictor(config, vos_optimized=vos_optimized, **settings)
    return build_sam2(config, **settings)


# What masks of photos do not need; of other sizes in a model of narrow layers.
OF_VIDEOS = ("memory_", "mask_downsample", "maskmem_", "obj_ptr_", "no_obj_", "no_mem_pos_enc")


def official_nano(folder: Path) -> torch.nn.Module:
    """The official modules with the weights of the small model in the package, exported to a file in `folder`."""
    from sam2.modeling.sam.transformer import TwoWayTransformer
    from sam2.modeling.sam2_utils import MLP

    config = PRESETS["sam2_nano"]
    trunk, dim = config.trunk, config.hidden_dim
    official = build_official(
        "sam2.1_hiera_t",
        **{
            "image_size": config.image_size,
            "image_encoder.trunk.embed_dim": trunk.embed_dim,
            "image_encoder.trunk.stages": list(trunk.stages),
            "image_encoder.trunk.global_att_blocks": list(trunk.global_att_blocks),
            "image_encoder.trunk.window_spec": list(trunk.window_spec),
            "image_encoder.neck.d_model": dim,
            "image_encoder.neck.backbone_channel_list": list(reversed(trunk.stage_dims)),
            "image_encoder.neck.position_encoding.num_pos_feats": dim,
        },
    )
    decoder = official.sam_mask_decoder  # the package gives its layers the width of the released models
    decoder.transformer = TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=config.mlp_dim, num_heads=8)
    decoder.iou_prediction_head = MLP(dim, dim, decoder.num_mask_tokens, 3, sigmoid_output=True)
    export_checkpoint(BUNDLED["nano"], folder / "nano.pt")
    tensors = torch.load(folder / "nano.pt", weights_only=True)["model"]
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(OF_VIDEOS)}
    missing, unexpected = official.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(key.startswith(OF_VIDEOS) for key in missing)
    return official.eval()


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Adds noise to every parameter and buffer, so that none is zero or one any more.

    Vectors and embeddings get much of it: a positional embedding that hardly counts would hide an error in its resize.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            is_small = tensor.ndim == 1 or any(part in name for part in ("embed", "token", "tpos", "no_obj", "no_mem"))
            scale = 0.2 if is_small and "proj" not in name else 0.02
            tensor.add_(scale * torch.randn(tensor.shape, generator=generator))
    return module


@functools.lru_cache(maxsize=1)
def official_and_ours(name: str, image_size: int = 1024) -> tuple[torch.nn.Module, SAM2]:
    """The official model of this name with random weights, and ours with the same weights."""
    official = randomise(build_official(name, image_size=image_size))
    return official, ours_like(official, image_size=image_size)


def ours_like(official: torch.nn.Module, *, dtype=jnp.float32, **config_changes) -> SAM2:
    """Our model with the weights of the official one."""
    config, weights = weights_from_official({k: t.numpy().copy() for k, t in official.state_dict().items()})
    return model_from_weights(dataclasses.replace(config, **config_changes), weights, dtype=dtype)


def ours_of_few_blocks(official: torch.nn.Module, name: str, image_size: int) -> SAM2:
    """Our model with the weights of an official one that was built with `few_blocks`."""
    trunk = dataclasses.replace(PRESETS[name].trunk, **FEW_BLOCKS)
    config = dataclasses.replace(
        PRESETS[name], trunk=trunk, memory_layers=len(official.memory_attention.layers), image_size=image_size
    )
    return ours_of(official, config)


def ours_of(official: torch.nn.Module, config: SAM2Config) -> SAM2:
    """Our model of a configuration with the weights of an official one."""
    tensors = {key: tensor.numpy() for key, tensor in official.state_dict().items()}
    weights = {
        path: our_layout(tensors[official_key(path)], torch_axes(path, weight))
        for path, weight in describe_weights(config).items()
    }
    return model_from_weights(config, weights)


def official_image_predictor(official: torch.nn.Module, **kwargs):
    with torchvision_stand_in():
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        return at_its_size(SAM2ImagePredictor(official, **kwargs))


def at_its_size(predictor):
    """An official predictor, which knows no size but the released one, made to know its model's."""
    predictor._bb_feat_sizes = [(predictor.model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return predictor


def official_mask_generator(official: torch.nn.Module, **kwargs):
    with torchvision_stand_in():
        from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

        generator = SAM2AutomaticMaskGenerator(official, **kwargs)
    at_its_size(generator.predictor)
    return generator


def relative_error(ours, reference) -> float:
    """Relative L2 distance."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def nchw(x) -> np.ndarray:
    """Ours (NHWC) as PyTorch lays it out."""
    return np.asarray(x).transpose(0, 3, 1, 2)


def to_torch(x) -> torch.Tensor:
    """Ours (NHWC) as a PyTorch tensor (NCHW)."""
    return torch.from_numpy(nchw(x).copy())
