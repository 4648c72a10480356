import numpy as np
import pytest
import torch
from flax import nnx
from sam2.modeling.position_encoding import PositionEmbeddingRandom, PositionEmbeddingSine
from sam2.modeling.sam2_utils import get_1d_sine_pe

from sam2refiner_jax.nn.positional import RandomPositionEncoding, sine_encoding_1d, sine_encoding_2d


@pytest.mark.parametrize(("height", "width", "dim"), [(64, 64, 256), (16, 24, 64)])
def test_sine_encoding_2d_equals_official(height, width, dim):
    expected = PositionEmbeddingSine(dim)(torch.zeros(1, 1, height, width))[0].permute(1, 2, 0)
    np.testing.assert_allclose(sine_encoding_2d(height, width, dim), expected, atol=2e-6)


def test_sine_encoding_1d_equals_official():
    position = np.array([-1.0, 0.0, 0.2, 0.7, 3.0], np.float32)
    np.testing.assert_allclose(
        sine_encoding_1d(position, 256), get_1d_sine_pe(torch.from_numpy(position), 256), atol=1e-6
    )


def test_random_encoding_equals_official():
    official = PositionEmbeddingRandom(128)
    ours = RandomPositionEncoding(256, rngs=nnx.Rngs(0))
    ours.positional_encoding_gaussian_matrix.set_value(official.positional_encoding_gaussian_matrix.numpy())
    np.testing.assert_allclose(ours.grid(24, 64), official((24, 64)).permute(1, 2, 0), atol=1e-5)
    xy = np.random.default_rng(0).random((3, 5, 2), np.float32)
    expected = official.forward_with_coords(torch.from_numpy(xy) * torch.tensor([64.0, 24.0]), (24, 64))
    np.testing.assert_allclose(ours(xy), expected, atol=1e-5)
