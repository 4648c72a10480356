"""The same records from one device, and from eight simulated ones in a run that was interrupted."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from scenes import write_pairs
from small import refining_model

from sam2refiner_jax import save_model, save_refiner
from sam2refiner_jax.eval.commands import image
from sam2refiner_jax.eval.run_folder import RECORDS_FILE

PROMPTS = ("box", "points-2")
INTERRUPTED_THEN_RESUMED = """
import sys
from pathlib import Path
import jax
sys.path.insert(0, {reference!r})
import small  # registers the configuration
from sam2refiner_jax.eval.commands import image
from sam2refiner_jax.eval.jax_segmenter import JaxSegmenter

assert jax.device_count() == 8
encode, calls = JaxSegmenter.encode, []

def interrupted(self, photos):
    calls.append(len(photos))
    if len(calls) == 2:
        raise KeyboardInterrupt
    return encode(self, photos)

arguments = dict(checkpoint={checkpoint!r}, refiner=Path({refiner!r}), output=Path({output!r}), prompts={prompts!r})
JaxSegmenter.encode = interrupted
try:
    image(("folder:" + {pairs!r},), **arguments)
except KeyboardInterrupt:
    print("interrupted after", calls)
JaxSegmenter.encode = lambda self, photos: calls.append(len(photos)) or encode(self, photos)
image(("folder:" + {pairs!r},), **arguments)
print("encoded", calls)
"""


@pytest.mark.slow
def test_eight_devices_interrupted_and_resumed_give_the_same(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 10)
    checkpoint, refiner = tmp_path / "plain", tmp_path / "fine"
    save_model(refining_model().with_refiner(None), checkpoint)
    save_refiner(refining_model(), refiner)
    script = INTERRUPTED_THEN_RESUMED.format(
        reference=str(Path(__file__).parents[1] / "reference"),
        checkpoint=str(checkpoint),
        refiner=str(refiner),
        output=str(tmp_path / "eight"),
        prompts=PROMPTS,
        pairs=str(pairs),
    )
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, **pipes) as process:
        image((f"folder:{pairs}",), str(checkpoint), refiner, output=tmp_path / "one", prompts=PROMPTS)
        printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "interrupted after [8, 2]" in printed
    assert "encoded [8, 2, 2" in printed  # then the gallery's, one by one
    one, eight = (sorted((tmp_path / run / RECORDS_FILE).read_text().splitlines()) for run in ("one", "eight"))
    assert len(one) == 10
    assert one == eight
    tables = [(tmp_path / run / "table.md").read_text().split("Time of")[0] for run in ("one", "eight")]
    assert tables[0] == tables[1]
    assert "| plain + fine, coarse |" in tables[0]
    assert "| plain + fine, refined |" in tables[0]
    assert np.ptp([len(line) for line in one]) > 0  # the items differ
