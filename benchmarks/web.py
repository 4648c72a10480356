"""The page of `sam2refiner demo --web` in a real browser: how long a click takes, and what 300 of them leave in memory.

    python benchmarks/web.py [PHOTO] [--checkpoint nano] [--screenshot docs/web.jpg]

The server is the command itself, in a process of its own; chromium and chromedriver must be on PATH. A click's time in
the browser is from the event to the frame in which the answered mask is painted. Every eighth click starts anew.
"""

import importlib.util
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from tyro.conf import Positional

from sam2refiner_jax import load_model
from sam2refiner_jax.commands.demo import PROMPTS
from sam2refiner_jax.image.preprocess import read_photo
from sam2refiner_jax.web.photo import MOST_CLICKS, PhotoSession, warm_up
from sam2refiner_jax.web.pictures import at_size, data_url, overlay_png

BUDGET, SECONDS = 150, 120
COMMAND = "from sam2refiner_jax.commands.cli import main; main()"
# Clicks at a share of the photo's sides; gives the milliseconds until the mask is decoded and until it is painted.
CLICK = """
const [x, y, done] = arguments, view = document.querySelector(".view"), mask = view.querySelector(".mask");
const { left, top, width, height } = view.querySelector(".photo").getBoundingClientRect();
const start = performance.now();
mask.addEventListener("load", () => {
  const decoded = performance.now() - start;
  requestAnimationFrame(() => requestAnimationFrame(() => done([decoded, performance.now() - start])));
}, { once: true });
const place = { clientX: left + x * width, clientY: top + y * height, bubbles: true };
view.dispatchEvent(new MouseEvent("click", place));
"""


def main(
    photo: Positional[Path | None] = None,
    checkpoint: str = "nano",
    clicks: int = 300,
    screenshot: Path | None = None,
    seed: int = 0,
) -> None:
    """Prints two tables.

    Args:
      photo: The rocket of the demo unless given.
      checkpoint: What `load_model` reads.
      clicks: How many are made in the browser.
      screenshot: Where to put a picture of the page with the demo's photo, a JPEG.
      seed: Of the clicks.
    """
    path = photo or Path(importlib.util.find_spec("skimage").origin).parent / "data" / "rocket.jpg"
    rng = random.Random(seed)
    places = [(rng.uniform(0.45, 0.55), rng.uniform(0.3, 0.7)) for _ in range(clicks)]
    print(f"{path.name}, {' x '.join(map(str, Image.open(path).size))} pixels, {checkpoint}\n")
    alone = in_process(path, checkpoint, places[:100])
    with serving(checkpoint) as (process, url), browsing() as driver:
        upload(driver, url, path)
        in_browser, memory = [], [(0, resident(process))]
        for i, place in enumerate(places, start=1):
            in_browser.append(driver.execute_async_script(CLICK, *place))
            if i % MOST_CLICKS == 0:
                start_anew(driver)
            if i % 50 == 0:
                memory.append((i, resident(process)))
        if screenshot:
            save_page(driver, screenshot)
    decoded, painted = np.array(in_browser).T
    print("| a click, milliseconds | median | 95 % are within | longest |\n|---|---|---|---|")
    for name, times in (
        ("in the server: mask, overlay, PNG", alone),
        ("in the browser: mask decoded", decoded),
        ("in the browser: mask painted", painted),
    ):
        print(f"| {name} | {np.median(times):.0f} | {np.percentile(times, 95):.0f} | {times.max():.0f} |")
    print(f"\n{(painted < BUDGET).mean():.1%} of {clicks} clicks painted within {BUDGET} ms\n")
    print("| clicks | " + " | ".join(str(i) for i, _ in memory) + " |\n|---|" + "---|" * len(memory))
    print("| resident memory of the server, MB | " + " | ".join(f"{size:.0f}" for _, size in memory) + " |")


def in_process(path: Path, checkpoint: str, places: list[tuple[float, float]]) -> np.ndarray:
    """Milliseconds of what the server does for a click, without Gradio."""
    model = load_model(checkpoint)
    warm_up(model)
    session = PhotoSession(model, read_photo(path))
    times = []
    for i, place in enumerate(places):
        if i % MOST_CLICKS == 0:
            session.clear()
        start = time.perf_counter()
        session.click(*place, 1)
        mask = session.mask(refine=model.refiner is not None)
        data_url(overlay_png([at_size(mask, session.shown)], [0]), "image/png")
        times.append(1e3 * (time.perf_counter() - start))
    return np.array(times)


@contextmanager
def serving(checkpoint: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command in a process of its own, and the address that it prints."""
    command = [sys.executable, "-c", COMMAND, "demo", "--web", "--port", "0", "--checkpoint", checkpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, re.search(r"http://[\d.:]+", process.stdout.readline()).group()
        finally:
            process.terminate()


@contextmanager
def browsing() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,780"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(SECONDS)
    try:
        yield driver
    finally:
        driver.quit()


def upload(driver: webdriver.Chrome, url: str, path: Path) -> None:
    driver.get(url)
    wait = WebDriverWait(driver, SECONDS)
    wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, ".canvas .file"))
    driver.find_element(By.CSS_SELECTOR, ".canvas .file").send_keys(str(path.resolve()))
    photo = "return document.querySelector('.photo').naturalWidth"
    wait.until(lambda d: d.execute_script(photo))


def start_anew(driver: webdriver.Chrome) -> None:
    driver.find_element(By.ID, "photo-clear").click()
    WebDriverWait(driver, SECONDS).until(lambda d: not d.find_element(By.CSS_SELECTOR, ".mask").is_displayed())


def save_page(driver: webdriver.Chrome, target: Path) -> None:
    """The page after the clicks of the demo, which are on its photo."""
    start_anew(driver)
    for (x, y), label in zip(*PROMPTS["clicks"].values(), strict=True):
        kind = "on the object" if label else "off it"
        driver.find_element(By.XPATH, f"//*[@id='photo-kind']//label[normalize-space()='{kind}']").click()
        driver.execute_async_script(CLICK, x / 640, y / 427)
    time.sleep(1)  # until the buttons are as they are when nobody points at them
    page = Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    page.save(target, "JPEG", quality=85, optimize=True)


def resident(process: subprocess.Popen) -> float:
    """MB of a process that are in memory."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024


if __name__ == "__main__":
    tyro.cli(main)
