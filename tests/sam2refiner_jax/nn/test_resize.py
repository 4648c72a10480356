import numpy as np
import pytest
import torch
from official import nchw, to_torch

from sam2refiner_jax.nn.resize import resize_bicubic, resize_bilinear, resize_planes, upsample_nearest_2x


@pytest.mark.parametrize("size", [(64, 64), (104, 33), (7, 7), (5, 3)])
@pytest.mark.parametrize(("mode", "resize"), [("bicubic", resize_bicubic), ("bilinear", resize_bilinear)])
def test_resize_equals_pytorch(mode, resize, size):
    x = np.random.default_rng(0).normal(size=(2, 7, 14, 5)).astype(np.float32)
    expected = torch.nn.functional.interpolate(to_torch(x).double(), size=size, mode=mode, align_corners=False)
    np.testing.assert_allclose(nchw(resize(x, size)), expected, atol=3e-6)


@pytest.mark.parametrize("size", [(64, 64), (7, 7), (5, 3)])
@pytest.mark.parametrize("antialias", [False, True])
def test_planes_equal_pytorch(size, antialias):
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 14)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x).double(), size=size, mode="bilinear", align_corners=False, antialias=antialias
    )
    np.testing.assert_allclose(resize_planes(x, size, antialias=antialias), expected, atol=3e-6)


def test_nearest_equals_pytorch():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    expected = torch.nn.functional.interpolate(to_torch(x), scale_factor=2.0, mode="nearest")
    np.testing.assert_array_equal(nchw(upsample_nearest_2x(x)), expected)
