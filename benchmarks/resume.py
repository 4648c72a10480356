"""`track --resume` killed with SIGKILL at places of a video: are the files those of a run that was not killed?

    python benchmarks/resume.py VIDEO --prompts="--boxes 310 200 480 380" [--checkpoint nano] [--kills 5]
        [--save-every 10]

VIDEO is what `track` takes, PROMPTS what else it is given. Each kill comes when as many frames are written as its share
of the video says, wherever the process is then: in a step, in a save, or between two.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro
from tyro.conf import Positional

RUN = "from sam2refiner_jax.commands.cli import main; main()"


def main(video: Positional[Path], prompts: str, checkpoint: str = "nano", kills: int = 5, save_every: int = 10) -> None:
    """Prints where each kill was, and what is equal."""
    with tempfile.TemporaryDirectory() as place:
        whole, parts = Path(place) / "whole", Path(place) / "parts"
        command = [sys.executable, "-c", RUN, "track", str(video), "--checkpoint", checkpoint]
        start = time.perf_counter()
        subprocess.run([*command, *prompts.split(), "--output", str(whole)], check=True, capture_output=True)
        expected = files_in(whole)
        count = sum(name.endswith(".png") for name in expected)
        print(f"{count} frames in {time.perf_counter() - start:.0f} s, {len(expected)} files")
        resume = [*command, *prompts.split(), "--output", str(parts), "--resume", "--save-every", str(save_every)]
        for kill in range(1, kills + 1):
            written = kill_at(resume, parts, count * kill // (kills + 1))
            left = [path.name for path in parts.rglob(".*")]
            states = [f"{path.stat().st_size / 2**20:.1f} MB" for path in parts.rglob("state.npz")]
            print(f"killed with {written} frames written; state: {', '.join(states) or 'none'}; half-written: {left}")
        start = time.perf_counter()
        subprocess.run(resume, check=True, capture_output=True)
        found = files_in(parts)
        others = [name for name in expected if found.get(name) != expected[name]]
        more = sorted(found.keys() - expected.keys())
        print(f"the rest in {time.perf_counter() - start:.0f} s")
        print(f"{len(expected) - len(others)} of {len(expected)} files are the same; other: {others}; more: {more}")


def kill_at(command: list[str], folder: Path, frames: int) -> int:
    """Runs a command until so many masks are there, and kills it; how many there were."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None:
        written = len([path for path in folder.rglob("*.png") if not path.name.startswith(".")])
        if written >= frames:
            child.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert child.wait() == -signal.SIGKILL, "the run ended before it was killed"
    return written


def files_in(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their path in it; but the overlay, which x264 encodes otherwise each time."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".mp4"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


if __name__ == "__main__":
    tyro.cli(main)
