import pytest

pytest.importorskip("libtpu")

from sam2refiner_jax.hardware.chips import CHIPS, chip_of, topology_mesh


@pytest.mark.parametrize(
    ("spec", "axes", "shape"),
    [
        ("v5e:1x1", {"data": 1}, {"data": 1}),
        ("v5e:4x4", {"data": -1, "model": 2}, {"data": 8, "model": 2}),
        ("v5e:16x16", {"data": -1}, {"data": 256}),
        ("v5p:4x4x4", {"data": 32, "model": -1}, {"data": 32, "model": 2}),
        ("v6e:4x4", {"data": -1, "model": 1}, {"data": 16, "model": 1}),
    ],
)
def test_meshes_of_whole_chips(spec, axes, shape):
    mesh = topology_mesh(spec, axes)
    assert dict(mesh.shape) == shape
    assert {device.platform for device in mesh.devices.flat} == {"tpu"}
    # Chips of two cores count as one device.
    assert len({tuple(device.coords) for device in mesh.devices.flat}) == mesh.size


@pytest.mark.parametrize(
    ("spec", "axes", "message"),
    [
        ("h100:8", {"data": -1}, "topology must start with one of v5e, v5p, v6e, got 'h100:8'"),
        ("v5e:16", {"data": -1}, "topology must be like v5e:4x4, got 'v5e:16'"),
        ("v5p:4x4", {"data": -1}, "topology must be like v5p:4x4x4, got 'v5p:4x4'"),
        ("v5e:0x4", {"data": -1}, "topology must be like v5e:4x4, got 'v5e:0x4'"),
        ("v5e:4x4", {"data": 3, "model": -1}, "axes must make up the 16 chips of v5e:4x4"),
        ("v5e:4x4", {"data": 8}, "axes must make up the 16 chips of v5e:4x4"),
        ("v5e:4x4", {"data": -1, "model": -1}, "axes must make up the 16 chips of v5e:4x4"),
        ("v5e:4x4", {"data": -2, "model": -8}, "axes must make up the 16 chips of v5e:4x4"),
    ],
)
def test_what_makes_no_mesh(spec, axes, message):
    with pytest.raises(ValueError, match=message):
        topology_mesh(spec, axes)


def test_figures_are_in_proportion():
    # A chip's ratio of arithmetic to memory is a few hundred FLOPs a byte; a slip of units would show.
    for chip in CHIPS.values():
        assert 100 < chip.peak_flops / chip.hbm_bandwidth < 1000
        assert 5 < chip.hbm_bandwidth / chip.ici_bandwidth < 20
    assert chip_of("v6e:4x4").hbm_bytes == 32 * 2**30
