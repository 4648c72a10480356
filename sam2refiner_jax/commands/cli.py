"""The command `sam2refiner`: finds the subcommand, parses its arguments, reports errors of use in one line."""

import atexit
import gc
import glob
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["main"]

COMMANDS = "sam2refiner_jax.commands"
# Compiled programs are kept up to this size; those used last the longest.
CACHE_BYTES = 2 * 2**30
HINTS = (
    "`sam2refiner COMMAND --help` says more; `--debug` shows where an error came from;",
    "`--import FILE.py` makes refiners, presets and sources of your own known.",
)
INTERRUPTED = 130  # the exit status of a program that ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `sam2refiner ARGUMENTS`; exits with status 2 and one line of message on an error of use.

    Every command is a function found through the entry points of the group `sam2refiner_jax.commands`; its signature
    and docstring are its command line. A command's name is one word or two. With `--debug`, or SAM2REFINER_DEBUG=1 in
    the environment, an error shows where it came from. `--import FILE.py` runs a file first, whose refiners, presets
    and sources are then known by their names.
    """
    if arguments is None:  # the process is the command's own
        _collect_less_garbage()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or os.environ.get("SAM2REFINER_DEBUG", "0") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    arguments, imports = _take_imports(arguments)
    commands = {entry.name: entry for entry in importlib.metadata.entry_points(group=COMMANDS)}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(commands))
        return
    words = 2 if " ".join(arguments[:2]) in commands else 1
    name = " ".join(arguments[:words])
    if name not in commands:
        _fail(f"command must be one of {', '.join(sorted(commands))}, got {name!r}")
    import tyro

    _use_compilation_cache()
    _pass_over_absent_tpus()
    try:
        for file in imports:
            _import(file)
        tyro.cli(_load(commands[name]), prog=f"sam2refiner {name}", args=arguments[words:])
    except KeyboardInterrupt:
        if debug:
            raise
        _fail("interrupted", INTERRUPTED)
    except (ValueError, OSError) as error:
        if debug:
            raise
        _fail(str(error))


def _take_imports(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--import FILE`, wherever it is, and the files."""
    rest, files = [], []
    given = iter(arguments)
    for argument in given:
        if argument == "--import":
            files.append(next(given, ""))
        else:
            rest.append(argument)
    return rest, files


def _import(file: str) -> None:
    """Imports a file by its name, under which processes that read data for training find it too."""
    path = Path(file).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"--import must be followed by a Python file, got {file!r}")
    sys.path.append(str(path.parent))
    module = importlib.import_module(path.stem)
    if module.__file__ is None or Path(module.__file__).resolve() != path:
        raise ValueError(f"--import: there is another module called {path.stem!r}; rename {file}")


def _load(command: importlib.metadata.EntryPoint) -> Callable:
    try:
        return command.load()
    except ModuleNotFoundError as error:
        package = command.module.split(".")[1]  # The packages that stand on the library are named as their extras.
        raise ValueError(
            f"{command.name} needs {error.name}, which is not installed; pip install 'sam2refiner_jax[{package}]'"
        ) from error


def _overview(commands: dict[str, importlib.metadata.EntryPoint]) -> str:
    lines = ["usage: sam2refiner COMMAND ...", "", "commands:"]
    for name, command in sorted(commands.items()):
        try:
            purpose = (inspect.getdoc(_load(command)) or "").splitlines()[0]
        except ValueError as error:
            purpose = f"({error})"
        lines.append(f"  {name:<13} {purpose}")
    return "\n".join([*lines, "", *HINTS])


def _use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless the user chose a place for them already."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "sam2refiner_jax" / "xla"))
        if not os.environ.get("JAX_COMPILATION_CACHE_MAX_SIZE"):
            jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _pass_over_absent_tpus() -> None:
    """Names JAX's platforms where libtpu is installed and no TPU is, unless the user named them.

    `sam2refiner plan` wants libtpu for its compiler alone. Left to itself, JAX would start it in every command, to be
    told in five lines that there is no chip.
    """
    import jax

    if os.environ.get("JAX_PLATFORMS") or importlib.util.find_spec("libtpu") is None or _has_tpu():
        return
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    if not plugins:
        jax.config.update("jax_platforms", "cpu")
    elif all("cuda" in plugin.name for plugin in plugins):
        jax.config.update("jax_platforms", "cuda,cpu" if glob.glob("/dev/nvidia[0-9]*") else "cpu")


def _has_tpu() -> bool:
    """Whether a device of Google's is on the PCI bus, which is how JAX looks for TPUs too."""
    vendors = glob.glob("/sys/bus/pci/devices/*/vendor")
    return any(Path(vendor).read_text().strip() == "0x1ae0" for vendor in vendors)


def _collect_less_garbage() -> None:
    """Importing and tracing make millions of objects that stay: looking for garbage among them takes a second."""
    gc.set_threshold(200_000, 20, 20)
    atexit.register(gc.freeze)


def _fail(message: str, status: int = 2) -> None:
    print(f"sam2refiner: {message}", file=sys.stderr)
    raise SystemExit(status)
