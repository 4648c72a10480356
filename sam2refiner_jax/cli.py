"""The command `sam2refiner`: finds the subcommand, parses its arguments, reports errors of use in one line."""

import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["main"]

COMMANDS = "sam2refiner_jax.commands"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `sam2refiner ARGUMENTS`; exits with status 2 and one line of message on an error of use.

    Every command is a function found through the entry points of the group `sam2refiner_jax.commands`; its signature
    and docstring are its command line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {entry.name: entry for entry in importlib.metadata.entry_points(group=COMMANDS)}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview({name: entry.load() for name, entry in sorted(commands.items())}))
        return
    name = arguments.pop(0)
    if name not in commands:
        _fail(f"command must be one of {', '.join(sorted(commands))}, got {name!r}")
    import tyro

    _use_compilation_cache()
    try:
        tyro.cli(commands[name].load(), prog=f"sam2refiner {name}", args=arguments)
    except (ValueError, OSError) as error:
        _fail(str(error))


def _overview(commands: dict[str, Callable]) -> str:
    lines = ["usage: sam2refiner COMMAND ...", "", "commands:"]
    for name, command in commands.items():
        lines.append(f"  {name:<9} {(inspect.getdoc(command) or '').splitlines()[0]}")
    return "\n".join([*lines, "", "`sam2refiner COMMAND --help` says more."])


def _use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless the user chose a place for them already."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "sam2refiner_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _fail(message: str) -> None:
    print(f"sam2refiner: {message}", file=sys.stderr)
    raise SystemExit(2)
