"""Official files in, our directories, official files out."""

import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from official import PRESET_NAMES, build_official
from safetensors.numpy import save_file
from small import small_model

from sam2refiner_jax import CheckpointError, build_model, load_model, save_model
from sam2refiner_jax.checkpoints import check_shapes, describe_weights, load_weights, weight_shapes, weights_of
from sam2refiner_jax.commands.cli import main
from sam2refiner_jax.config import PRESETS
from sam2refiner_jax.convert import convert_checkpoint, export_checkpoint, read_official, weights_from_official
from sam2refiner_jax.convert.naming import OFFICIAL, official_key, official_layout, tensor_shapes, torch_axes
from sam2refiner_jax.convert.recognition import recognise

REFERENCE = Path(os.environ.get("SAM2REFINER_REFERENCE", Path(__file__).parents[3] / "shared/reference/checkpoints"))
FILE_NAMES = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}


def official_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file's tensors, as listed or as the installed official package builds them."""
    version, _, size = name.split("_")
    listed = REFERENCE / f"{version}_hiera_{FILE_NAMES[size]}.json"
    if listed.exists():
        return {key: tuple(shape) for key, shape in json.loads(listed.read_text()).items()}
    return {key: tuple(tensor.shape) for key, tensor in build_official(name).state_dict().items()}


def random_tensors(shapes) -> dict[str, torch.Tensor]:
    """No two alike, and none its own transpose: random numbers, in each tensor from another one on."""
    numbers = np.random.default_rng(0).random(2**20, np.float32) - 0.5
    return {
        key: torch.from_numpy(np.resize(numbers[i : i + math.prod(shape)], shape))
        for i, (key, shape) in enumerate(shapes.items())
    }


def empty_tensors(shapes) -> dict[str, torch.Tensor]:
    """Zeros that take no room in a file."""
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A file of the official layout of SAM 2.1 T with random numbers."""
    path = tmp_path_factory.mktemp("tiny") / "some name.pt"
    torch.save({"model": random_tensors(official_shapes("sam2.1_hiera_t"))}, path)
    return path


@pytest.mark.parametrize(
    "name", [name if name.startswith("sam2.1") else pytest.param(name, marks=pytest.mark.slow) for name in PRESET_NAMES]
)
def test_official_files_are_recognised_and_have_the_tensors_of_our_models(name):
    shapes = official_shapes(name)
    assert recognise(empty_tensors(shapes)) == PRESETS[name]
    assert tensor_shapes(describe_weights(PRESETS[name]), OFFICIAL.keys) == shapes


@pytest.mark.parametrize(
    "name", [name if name == "sam2.1_hiera_t" else pytest.param(name, marks=pytest.mark.slow) for name in PRESET_NAMES]
)
def test_official_layouts_come_back_bit_for_bit(name):
    """Which numbers of a tensor go where depends on its name alone; the larger models repeat the names of T."""
    tensors = random_tensors(official_shapes(name))
    config, weights = weights_from_official({key: tensor.numpy() for key, tensor in tensors.items()})
    assert config == PRESETS[name]
    assert {official_key(path) for path in weights} == tensors.keys()
    for path, weight in describe_weights(config).items():
        returned = official_layout(np.asarray(weights[path]), torch_axes(path, weight))
        np.testing.assert_array_equal(returned, tensors[official_key(path)])


@pytest.mark.parametrize("name", [pytest.param("sam2_hiera_t", marks=pytest.mark.slow), "sam2.1_hiera_t"])
def test_official_files_come_back_bit_for_bit(name, tmp_path):
    tensors = random_tensors(official_shapes(name))
    torch.save({"model": tensors}, tmp_path / "in.pt")
    config = convert_checkpoint(tmp_path / "in.pt", tmp_path / "jax")
    assert config == PRESETS[name]
    export_checkpoint(tmp_path / "jax", tmp_path / "out.pt")
    returned = torch.load(tmp_path / "out.pt", weights_only=True)["model"]
    assert returned.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert returned[key].dtype == tensor.dtype
        assert torch.equal(returned[key], tensor), key


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_converting_the_largest_model_peaks_below_one_and_three_quarters_of_its_size(tmp_path):
    path = tmp_path / "large.pt"
    torch.save({"model": random_tensors(official_shapes("sam2.1_hiera_l"))}, path)
    # The kernel's own account of the process, which starts anew at exec; getrusage's would include pytest's size.
    program = (
        "from sam2refiner_jax.commands.cli import main; main(); import re; "
        "print('peak', int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "convert", str(path), str(tmp_path / "jax")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    peak = int(result.stdout.split("peak")[1])
    assert path.stat().st_size < peak < 1.75 * path.stat().st_size
    shutil.rmtree(tmp_path)


def test_every_parameter_is_filled(tiny):
    config, weights = read_official(tiny)
    assert {path: w.shape for path, w in weights.items()} == weight_shapes(config)


def test_directory_file_and_safetensors_load_the_same_model(tiny, tmp_path):
    tensors = torch.load(tiny, weights_only=True)["model"]
    save_file({key: tensor.numpy() for key, tensor in tensors.items()}, tmp_path / "model.safetensors")
    convert_checkpoint(tiny, tmp_path / "jax")
    models = [load_model(source) for source in (tiny, tmp_path / "model.safetensors", tmp_path / "jax")]
    first, *others = ({path: np.asarray(w) for path, w in weights_of(model).items()} for model in models)
    for other in others:
        for path, weight in first.items():
            np.testing.assert_array_equal(weight, other[path], err_msg=path)


def test_hugging_face_ids_name_the_official_file(tiny, monkeypatch):
    asked = []

    def download(repository, filename):
        asked.append((repository, filename))
        return str(tiny)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert load_model("facebook/sam2.1-hiera-tiny").config.name == "sam2.1_hiera_t"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a: (asked.append(a), 1 / 0))
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        load_model("facebook/sam2-hiera-base-plus")
    assert asked == [
        ("facebook/sam2.1-hiera-tiny", "sam2.1_hiera_tiny.pt"),
        ("facebook/sam2-hiera-base-plus", "sam2_hiera_base_plus.pt"),
    ]


class Code:
    """Pickles to a call that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def bad_checkpoints(tiny: Path, folder: Path):
    """(path, part of the message) of files that must be refused."""
    tensors = empty_tensors(official_shapes("sam2.1_hiera_t"))

    def save(name, content):
        torch.save(content, folder / name)
        return folder / name

    data = tiny.read_bytes()
    (folder / "truncated.pt").write_bytes(data[: len(data) // 2])
    yield folder / "truncated.pt", "damaged"
    (folder / "empty.pt").write_bytes(b"")
    yield folder / "empty.pt", "empty"
    (folder / "text.pt").write_text("hello")
    yield folder / "text.pt", "text, not a checkpoint; it begins 'hello'"
    (folder / "text.safetensors").write_text("hello")
    yield folder / "text.safetensors", "text, not a checkpoint; it begins 'hello'"
    header = (20).to_bytes(8, "little") + b'{"a": {"dtype": "F32"'
    (folder / "cut.safetensors").write_bytes(header)
    yield folder / "cut.safetensors", "damaged or not a safetensors file"
    yield folder / "absent.pt", "not a file"
    yield save("code.pt", {"model": tensors, "extra": Code(folder / "executed")}), "nothing in it was executed"
    (folder / "code.pkl").write_bytes(pickle.dumps(Code(folder / "executed")))
    yield folder / "code.pkl", "nothing in it was executed"
    yield save("list.pt", [1, 2]), "must hold a dictionary of tensors"
    yield save("foreign.pt", {"model": {"layer.weight": torch.zeros(3)}}), "not the tensors of a SAM 2 model"
    yield save("hf.pt", {"vision_encoder.neck.weight": torch.zeros(3)}), "transformers"
    key = "sam_mask_decoder.conv_s0.weight"
    yield (
        save("missing.pt", {"model": {k: t for k, t in tensors.items() if k != key}}),
        f"missing {key} (32, 256, 1, 1)",
    )
    yield save("surplus.pt", {"model": tensors | {"head.bias": torch.zeros(3)}}), "unexpected head.bias (3,)"
    yield (
        save("shape.pt", {"model": tensors | {key: torch.zeros(32, 256, 3, 3)}}),
        f"{key} must have shape (32, 256, 1, 1), got (32, 256, 3, 3)",
    )
    yield (
        save("integers.pt", {"model": tensors | {key: torch.zeros(32, 256, 1, 1, dtype=torch.int64)}}),
        f"{key} must hold floating-point numbers, got int64",
    )
    wrong = torch.zeros(32, 256, 1, 1)
    wrong[3, 0], wrong[4, :2] = math.nan, math.inf
    yield save("nan.pt", {"model": tensors | {key: wrong}}), f"{key} must hold finite numbers, got 1 NaN and 2 infinite"
    wide = "image_encoder.trunk.patch_embed.proj.weight"
    yield save("wide.pt", {"model": tensors | {wide: torch.zeros(97, 3, 7, 7)}}), "12 blocks that starts with 97"


def test_bad_checkpoints_are_refused_and_nothing_is_written(tiny, tmp_path):
    for path, message in bad_checkpoints(tiny, tmp_path):
        output = tmp_path / "output"
        with pytest.raises(CheckpointError) as error:
            convert_checkpoint(path, output)
        assert message in str(error.value)
        assert path.name in str(error.value)
        assert not output.exists()
        assert not (tmp_path / "executed").exists()
        with pytest.raises(CheckpointError):
            load_model(path)
        path.unlink(missing_ok=True)
    assert list(tmp_path.iterdir()) == []


def test_existing_outputs_are_refused_and_kept(tiny, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="taken exists already"):
        convert_checkpoint(tiny, tmp_path / "taken")
    convert_checkpoint(tiny, tmp_path / "jax")
    (tmp_path / "taken.pt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"taken.pt exists already"):
        export_checkpoint(tmp_path / "jax", tmp_path / "taken.pt")
    assert (tmp_path / "taken" / "file").read_text() == (tmp_path / "taken.pt").read_text() == "mine"


def test_an_interrupted_conversion_leaves_nothing(tiny, tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(ocp, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        convert_checkpoint(tiny, tmp_path / "jax")
    assert list(tmp_path.iterdir()) == []


def test_command_line_reports_in_one_line_with_status_2(tiny, tmp_path, capsys):
    for arguments, message in [
        (("convert", tmp_path / "no.pt", tmp_path / "jax"), "not a file"),
        (("convert", tiny, tmp_path), "exists already"),
        (("export", tmp_path, tmp_path / "out.pt"), "is not a model configuration"),
        (("fly",), "command must be one of convert, "),
    ]:
        with pytest.raises(SystemExit) as exit_:
            main([str(a) for a in arguments])
        assert exit_.value.code == 2
        reported = capsys.readouterr().err
        assert message in reported
        assert reported.startswith("sam2refiner: ")
        assert len(reported.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_command_line_round_trip(tiny, tmp_path):
    """In a process of its own, as a user runs it."""
    program = "import sys; from sam2refiner_jax.commands.cli import main; main(sys.argv[1:4]); main(sys.argv[4:])"
    arguments = ("convert", tiny, tmp_path / "jax", "export", tmp_path / "jax", tmp_path / "out.pt")
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    reports = [f"sam2.1_hiera_t: written to {tmp_path / name}" for name in ("jax", "out.pt")]
    assert result.stdout.splitlines() == reports
    written = torch.load(tmp_path / "out.pt", weights_only=True)["model"]
    assert written.keys() == official_shapes("sam2.1_hiera_t").keys()


def test_the_tensors_of_a_pytorch_module_are_taken_as_they_are():
    official = build_official("sam2.1_hiera_t")
    _, weights = weights_from_official(official.state_dict(keep_vars=True))
    for path, weight in describe_weights(PRESETS["sam2.1_hiera_t"]).items():
        tensor = official.state_dict()[official_key(path)]
        np.testing.assert_array_equal(official_layout(np.asarray(weights[path]), torch_axes(path, weight)), tensor)


def test_a_local_checkpoint_goes_before_the_packages_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()  # somebody's folder, no checkpoint
    (tmp_path / "nano" / "notes.txt").write_text("mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_model("nano").config.name == "sam2_nano"
    shutil.rmtree(tmp_path / "nano")
    save_model(small_model(), tmp_path / "nano")
    with pytest.warns(
        UserWarning, match=rf"{tmp_path}/nano is loaded, not the model 'nano' that comes with the package"
    ):
        assert load_model("nano").config == small_model().config


def test_a_number_that_is_none_is_an_error_by_the_weights_name(tmp_path):
    model = build_model("small")
    model.no_mem_embed.set_value(model.no_mem_embed[...].at[0, 0, 5].set(math.nan))
    save_model(model, tmp_path / "model")
    with pytest.raises(
        CheckpointError, match=r"model: no_mem_embed must hold finite numbers, got 1 NaN and 0 infinite"
    ):
        load_model(tmp_path / "model")


def test_few_of_many_differences_are_shown():
    expected = {f"layer{i}": (2,) for i in range(5)} | {"head": (3, 3)}
    with pytest.raises(CheckpointError) as error:
        check_shapes(expected, {"head": (3, 1), "other": (1,)})
    assert str(error.value) == (
        "the weights do not fit the model: missing layer0 (2,), missing layer1 (2,), missing layer2 (2,) and 2 more; "
        "unexpected other (1,); head must have shape (3, 3), got (3, 1)"
    )


def test_save_model_round_trip_with_another_input_size_and_dtype(tmp_path):
    model = build_model("small", image_size=512, seed=3)
    save_model(model, tmp_path / "model")
    with pytest.raises(FileExistsError):
        save_model(model, tmp_path / "model")
    config, weights = load_weights(tmp_path / "model")
    assert config == model.config
    assert config.image_size == 512
    for path, weight in weights_of(model).items():
        np.testing.assert_array_equal(weight, weights[path])
    half = load_model(tmp_path / "model", dtype="bfloat16")
    stored = {path: w.dtype.name for path, w in weights_of(half).items()}
    assert stored["image_encoder.trunk.blocks.0.attn.qkv.kernel"] == "bfloat16"
    assert stored["image_encoder.trunk.blocks.0.norm1.scale"] == "float32"


def test_damaged_directories_are_refused(tmp_path):
    save_model(small_model(), tmp_path / "model")
    config_file = tmp_path / "model" / "config.json"
    document = json.loads(config_file.read_text())
    for content, message in [
        ("{", "is not a model configuration"),
        (json.dumps({**document, "format": 99}), "format 99"),
        (json.dumps({**document, "model": {**document["model"], "colour": 1}}), "SAM2Config has no field colour"),
    ]:
        config_file.write_text(content)
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path / "model")
    config_file.write_text(json.dumps(document))
    for file in (tmp_path / "model" / "weights").rglob("*"):
        if file.is_file() and file.stat().st_size > 1_000_000:
            file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_model("sam3"), "name must be one of .*sam2.1_hiera_t.*, got 'sam3'"),
        (
            lambda: build_model("sam2_hiera_t", image_size=1000),
            "image_size must be a positive multiple of 32, got 1000",
        ),
        (lambda: build_model("sam2_hiera_t", dtype="float16"), "dtype must be float32 or bfloat16, got float16"),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
