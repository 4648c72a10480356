"""What all commands share: errors, the cache of compiled programs, and platforms that are not there."""

import importlib.metadata
import os
import subprocess
import sys
import types

import jax
import pytest

from sam2refiner_jax import PRESETS
from sam2refiner_jax.commands import cli


@pytest.fixture
def failing(monkeypatch):
    """Makes a command `fail` that raises an error."""

    def make(error):
        def fail() -> None:
            """Fail."""
            raise error

        module = types.ModuleType("failing_command")
        module.fail = fail
        monkeypatch.setitem(sys.modules, module.__name__, module)
        entry = importlib.metadata.EntryPoint("fail", "failing_command:fail", cli.COMMANDS)
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [entry])

    return make


@pytest.mark.parametrize(("error", "line"), [(ValueError("x must be 1"), "x must be 1"), (OSError("full"), "full")])
def test_an_error_of_use_is_one_line(failing, capsys, error, line):
    failing(error)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["fail"])
    assert capsys.readouterr().err == f"sam2refiner: {line}\n"


def test_debugging_shows_where_an_error_came_from(failing, monkeypatch):
    failing(ValueError("x must be 1"))
    with pytest.raises(ValueError, match="x must be 1"):
        cli.main(["fail", "--debug"])
    monkeypatch.setenv("SAM2REFINER_DEBUG", "1")
    with pytest.raises(ValueError, match="x must be 1"):
        cli.main(["fail"])


def test_interruption_is_one_line_and_its_own_status(failing, capsys):
    failing(KeyboardInterrupt())
    with pytest.raises(SystemExit, match="130"):
        cli.main(["fail"])
    assert capsys.readouterr().err == "sam2refiner: interrupted\n"


def test_a_mistake_of_ours_is_not_hidden(failing):
    failing(TypeError("a mistake"))
    with pytest.raises(TypeError, match="a mistake"):
        cli.main(["fail"])


def test_a_file_of_ones_own_is_imported_first(failing, tmp_path, monkeypatch, capsys):
    failing(ValueError("after it"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_presets.py").write_text(
        "from sam2refiner_jax import SAM2Config\n"
        "from sam2refiner_jax.config import register_preset\n"
        "register_preset(SAM2Config('of_my_own', image_size=64))\n"
    )
    with pytest.raises(SystemExit):
        cli.main(["fail", "--import", str(tmp_path / "my_presets.py")])
    assert capsys.readouterr().err == "sam2refiner: after it\n"
    assert PRESETS.pop("of_my_own").image_size == 64


@pytest.mark.parametrize("name", ["absent.py", "text.txt", ""])
def test_what_cannot_be_imported_is_an_error_of_use(failing, tmp_path, monkeypatch, capsys, name):
    failing(ValueError("after it"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(SystemExit):
        cli.main(["fail", "--import", name])
    assert f"--import must be followed by a Python file, got {name!r}" in capsys.readouterr().err


def test_a_file_called_as_another_module_is_refused(failing, tmp_path, monkeypatch, capsys):
    failing(ValueError("after it"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "pytest.py").write_text("")
    with pytest.raises(SystemExit):
        cli.main(["fail", "--import", str(tmp_path / "pytest.py")])
    assert "another module called 'pytest'" in capsys.readouterr().err


def run_alone(program: str, **environment: str) -> subprocess.CompletedProcess:
    """A program in a process of its own, with an environment that says nothing of JAX but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "TPU_"))}
    return subprocess.run(
        [sys.executable, "-c", program], env=kept | environment, capture_output=True, text=True, check=True
    )


@pytest.mark.skipif(cli._has_tpu(), reason="this machine has a TPU, which commands are to use")
def test_commands_do_not_start_tpus_that_are_not_there():
    pytest.importorskip("libtpu")
    done = run_alone(
        "import logging; logging.basicConfig(level=logging.DEBUG)\n"
        "from sam2refiner_jax.commands import cli; cli._pass_over_absent_tpus()\n"
        "import jax; print(jax.devices()[0].platform)"
    )
    assert done.stdout.split() in (["gpu"], ["cpu"])
    assert "tpu" not in done.stderr.lower()


def test_platforms_that_the_user_names_stay(monkeypatch):
    before = jax.config.jax_platforms
    assert before  # the tests name one
    cli._pass_over_absent_tpus()
    assert jax.config.jax_platforms == before


def test_the_cache_of_programs_does_not_grow_beyond_its_size(tmp_path):
    program = (
        "import sys, jax, jax.numpy as jnp\n"
        "from sam2refiner_jax.commands import cli\n"
        "cli.CACHE_BYTES = 20_000\n"
        "cli._use_compilation_cache()\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)\n"
        "for n in range(1, 13): jax.jit(lambda x: jnp.sin(x) @ x.T + n)(jnp.ones((n, 3)))\n"
    )
    run_alone(program, XDG_CACHE_HOME=str(tmp_path), JAX_PLATFORMS="cpu")
    files = [path for path in (tmp_path / "sam2refiner_jax" / "xla").iterdir() if path.is_file()]
    assert files
    assert sum(path.stat().st_size for path in files) <= 20_000
