"""Configurations from plain values, as a file holds them."""

import pytest

from sam2refiner_jax import PRESETS, SAM2Config, SAM2RefinerConfig
from sam2refiner_jax.config import dataclass_from_dict


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_plain_values_and_back(config):
    assert SAM2Config.from_dict(config.to_dict()) == config


def test_lists_are_tuples_and_integers_are_numbers_too():
    values = {"trunk": {"stages": [1, 1, 2, 1]}, "dynamic_multimask_stability_delta": 1}
    config = SAM2Config.from_dict(values)
    assert config.trunk.stages == (1, 1, 2, 1)
    assert config.dynamic_multimask_stability_delta == 1


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (SAM2Config, {"hidden_dim": None}, "SAM2Config.hidden_dim must be int, got None"),
        (SAM2Config, {"hidden_dim": 0.5}, "SAM2Config.hidden_dim must be int, got 0.5"),
        (SAM2Config, {"trunk": 5}, "SAM2Config.trunk must be TrunkConfig, got 5"),
        (SAM2Config, {"trunk": {"kind": "cnn"}}, "trunk.kind must be one of hiera, vit, got 'cnn'"),
        (SAM2Config, {"trunk": {"kind": "vit", "stages": [1]}}, "ViTConfig has no field stages"),
        (SAM2Config, {"memory_pooling": "half"}, "memory_pooling must be one of none, logits, keys, got 'half'"),
        (SAM2Config, {"trunk": {"stages": [1, 2, 3]}}, r"HieraConfig.stages must be tuple\[int, int, int, int\], got"),
        (SAM2Config, {"image_size": 100}, "image_size must be a positive multiple of 32, got 100"),
        (SAM2Config, {"depth": 3}, "SAM2Config has no field depth"),
        (SAM2Config, [1], "SAM2Config must be made of a dictionary of fields, got"),
        (SAM2RefinerConfig, {"pool_windows": [2, "4"]}, r"SAM2RefinerConfig.pool_windows must be tuple\[int, ...\]"),
    ],
)
def test_values_of_another_type_are_refused_by_name(cls, values, message):
    with pytest.raises(ValueError, match=message):
        dataclass_from_dict(cls, values)
