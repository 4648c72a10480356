"""The page in a real browser: chromium, driven by selenium, against a server in this process."""

import base64
import contextlib
import http.client
import importlib.util
import io
import json
import shutil
import socket
import tempfile
import threading

import numpy as np
import pytest
from PIL import Image
from skimage.data import rocket
from small import refining_model
from videos import moving_frames, write_video

from sam2refiner_jax import SAM2ImagePredictor
from sam2refiner_jax.data.masks import davis_palette
from sam2refiner_jax.image import encoding
from sam2refiner_jax.image.encoding import encode_photos
from sam2refiner_jax.image.overlay import PALETTE
from sam2refiner_jax.image.predictor import decode_prompts, refine_prompts
from sam2refiner_jax.web.limits import Limits
from sam2refiner_jax.web.photo import warm_up

if importlib.util.find_spec("gradio") is None:
    pytest.skip("the extra `web` is not installed", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="no chromium and chromedriver on PATH; .ci/run installs them, as does: apt-get install chromium-driver",
)
SECONDS = 60
LIMITS = Limits(upload_bytes=2**20, frames=40, pages=2)
FRAMES, HEIGHT, WIDTH = 12, 96, 128
# The mask's picture as the browser has decoded it.
PIXELS = """
const mask = arguments[0], canvas = document.createElement("canvas"), done = arguments[1];
mask.decode().then(() => {
  canvas.width = mask.naturalWidth;
  canvas.height = mask.naturalHeight;
  canvas.getContext("2d").drawImage(mask, 0, 0);
  done(canvas.toDataURL());
});
"""


@pytest.fixture(scope="module")
def outside():
    """What the process asked of other machines meanwhile."""
    asked = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def watched_connect(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            asked.append(address)
        return connect(self, address)

    def watched_resolve(host, *args, **kwargs):
        if host not in ("127.0.0.1", "localhost", "::1", None):
            asked.append(host)
        return resolve(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched_connect)
        patch.setattr(socket, "getaddrinfo", watched_resolve)
        yield asked


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """Where the process makes its temporary files meanwhile."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture(scope="module")
def server(outside, temporary):
    model = refining_model()
    warm_up(model)
    from sam2refiner_jax.web.server import Server, listen  # with gradio, which takes seconds

    server = Server(model, listen(0), LIMITS)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server
    server.stop()
    thread.join()


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(server, downloads):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")  # which root cannot have
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--disable-gpu")
    options.add_argument("--window-size=1200,1000")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(SECONDS)
    yield driver
    driver.quit()


class Page:
    """The page in a window of its own."""

    def __init__(self, driver, server, tab="Photo"):
        self.driver, self.server = driver, server
        driver.switch_to.new_window("tab")
        self.window = driver.current_window_handle
        driver.get(server.url)
        self.until(lambda: self._shown(".drop span"))
        if tab != "Photo":
            buttons = driver.find_elements(By.CSS_SELECTOR, "button[role=tab]")
            next(button for button in buttons if button.is_displayed() and button.text == tab).click()
        self.until(lambda: self._shown(".drop span") and tab.lower() in self._shown(".drop span")[0].text)
        self.canvas = self._shown(".canvas")[0]

    def until(self, condition):
        return WebDriverWait(self.driver, SECONDS, 0.02).until(lambda _: condition())

    def look(self):
        self.driver.switch_to.window(self.window)

    def close(self):
        self.look()
        self.driver.close()
        self.driver.switch_to.window(self.driver.window_handles[0])

    def part(self, name):
        return self.canvas.find_element(By.CSS_SELECTOR, name)

    @property
    def note(self):
        return self.part(".note").text

    @property
    def opened(self):
        """What the server holds for the page that spoke last."""
        return list(self.server.state.pages._values.values())[-1][1]

    def answers(self, action):
        """Does something, and waits for the server's answer."""
        before = self._answered()
        action()
        self.until(lambda: self._answered() != before)

    def upload(self, path):
        self.part(".file").send_keys(str(path))

    def open(self, path):
        self.answers(lambda: self.upload(path))
        assert not self.note
        self.until(lambda: self.driver.execute_script("return arguments[0].naturalWidth", self.part(".photo")))

    def click(self, x, y):
        """Clicks at a share of the photo's width and height."""
        size = self.part(".view").size
        left, top = round((x - 0.5) * size["width"]), round((y - 0.5) * size["height"])
        move = ActionChains(self.driver, duration=0).move_to_element_with_offset(self.part(".view"), left, top)
        self.answers(lambda: move.click().perform())

    def press(self, name):
        self.answers(self.driver.find_element(By.ID, name).click)

    def choose(self, name, text):
        labels = self.driver.find_elements(By.CSS_SELECTOR, f"#{name} label")
        next(label for label in labels if text in label.text).click()

    def mask(self):
        """The mask's picture that is shown, RGBA; None where there is none."""
        if not self.part(".mask").is_displayed():
            return None
        address = self.driver.execute_async_script(PIXELS, self.part(".mask"))
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))

    def _shown(self, name):
        return [each for each in self.driver.find_elements(By.CSS_SELECTOR, name) if each.is_displayed()]

    def _answered(self):
        return self.driver.execute_script("return arguments[0].parentElement.dataset.answered", self.canvas)


@pytest.fixture
def visit(driver, server):
    """Opens pages, which are closed in the end."""
    pages = []

    def visit(*args):
        pages.append(Page(driver, server, *args))
        return pages[-1]

    yield visit
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def photo_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "rocket <b>.png"
    Image.fromarray(rocket()).save(path)
    return path


@pytest.fixture(scope="module")
def predictor():
    predictor = SAM2ImagePredictor(refining_model())
    predictor.set_image(rocket())
    return predictor


def masks_of(predictor, prompts, refine):
    """What the predictor itself says to what the server understood."""
    clicks = np.array(prompts.clicks, np.float32).reshape(-1, 3)
    masks, _, _ = predictor.predict(
        point_coords=clicks[:, :2] if len(clicks) else None,
        point_labels=clicks[:, 2] if len(clicks) else None,
        box=np.array(prompts.box) if prompts.box else None,
        multimask_output=False,
        refine=refine,
    )
    return masks[0] > 0


def test_clicks_change_the_mask_and_only_the_first_encodes(visit, photo_file, predictor, monkeypatch):
    encodings = []

    def counted(*args, **kwargs):
        encodings.append(args)
        return encode_photos(*args, **kwargs)

    monkeypatch.setattr(encoding, "encode_photos", counted)
    programs = encode_photos, decode_prompts, refine_prompts
    compiled = [program._cache_size() for program in programs]
    page = visit()
    page.open(photo_file)
    assert page.mask() is None

    page.click(0.2, 0.2)
    first = page.mask()
    prompts = page.opened.photo.prompts
    np.testing.assert_allclose(prompts.clicks, [(0.2 * 640, 0.2 * 427, 1)], atol=1)
    np.testing.assert_array_equal(first[..., 3] > 0, masks_of(predictor, prompts, True))
    x, y, _ = map(int, prompts.clicks[0])
    assert first[y, x, 3] > 0

    page.choose("photo-kind", "off it")
    page.click(0.5, 0.3)
    prompts = page.opened.photo.prompts
    assert [label for _, _, label in prompts.clicks] == [1, 0]
    second = page.mask()
    np.testing.assert_array_equal(second[..., 3] > 0, masks_of(predictor, prompts, True))
    assert (second != first).any()
    assert len(page.canvas.find_elements(By.CSS_SELECTOR, ".marks .on, .marks .off")) == 2
    assert len(encodings) == 1
    assert [program._cache_size() for program in programs] == compiled


def test_a_box_undo_and_both_masks(visit, photo_file, predictor):
    page = visit()
    page.open(photo_file)
    page.choose("photo-kind", "box")
    page.click(0.7, 0.9)
    assert page.mask() is None
    page.click(0.3, 0.2)
    prompts = page.opened.photo.prompts
    np.testing.assert_allclose(prompts.box, [0.3 * 640, 0.2 * 427, 0.7 * 640, 0.9 * 427], atol=1)
    refined, coarse = (masks_of(predictor, prompts, refine) for refine in (True, False))
    np.testing.assert_array_equal(page.mask()[..., 3] > 0, refined)
    page.answers(lambda: page.choose("photo-mode", "coarse"))
    np.testing.assert_array_equal(page.mask()[..., 3] > 0, coarse)
    page.answers(lambda: page.choose("photo-mode", "both"))
    both = page.mask()
    np.testing.assert_array_equal(both[..., 3] > 0, coarse | refined)
    assert np.abs(both[refined][:, :3].astype(int) - PALETTE[0]).max() <= 2  # half-transparent colours are rounded
    assert np.abs(both[coarse & ~refined][:, :3].astype(int) - PALETTE[1]).max() <= 2
    page.click(0.5, 0.5)
    page.click(0.5, 0.5)
    assert page.opened.photo.prompts.box != prompts.box or "lie apart" in page.note
    for _ in range(3):
        page.press("photo-undo")
    assert page.mask() is None
    assert not page.opened.photo.prompts


def test_the_mask_is_handed_out_as_a_png(visit, photo_file, predictor, downloads):
    page = visit()
    page.open(photo_file)
    page.press("photo-save")
    assert "no mask yet" in page.note
    page.click(0.2, 0.2)
    page.press("photo-save")
    page.until((downloads / "mask.png").exists)
    mask = np.asarray(Image.open(downloads / "mask.png"))
    np.testing.assert_array_equal(mask, masks_of(predictor, page.opened.photo.prompts, True) * np.uint8(255))


def test_everything(visit, photo_file, downloads):
    page = visit()
    page.open(photo_file)
    next(each for each in page._shown("button") if each.text.startswith("Everything")).click()
    for number, value in zip(page.until(lambda: page._shown("input[type=number]")), (4, 0, 0), strict=True):
        page.driver.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}));"
            "arguments[0].dispatchEvent(new Event('change', {bubbles: true}));",
            number,
            value,
        )
    page.press("photo-everything")
    numbers = page.opened.photo.numbers
    assert numbers.max() >= 2
    np.testing.assert_array_equal(page.mask()[..., 3] > 0, numbers > 0)
    page.press("photo-save")
    page.until((downloads / "everything.png").exists)
    picture = Image.open(downloads / "everything.png")
    np.testing.assert_array_equal(np.asarray(picture), numbers)
    assert picture.getpalette()[:12] == davis_palette().ravel()[:12].tolist()


def test_what_is_too_large_or_no_photo_is_refused_on_the_page(visit, photo_file, tmp_path):
    Image.new("1", (20000, 10000), 1).save(tmp_path / "large.png")
    (tmp_path / "notes.txt").write_text("<img src=x onerror=alert(1)>\n" * 9)
    (tmp_path / "heavy.png").write_bytes(bytes(LIMITS.upload_bytes + 1))
    page = visit()
    page.open(photo_file)
    for name, message in (
        ("large.png", "50 megapixels are the most"),
        ("notes.txt", "no photo that can be read"),
        ("heavy.png", "1 MB are the most"),
    ):
        page.upload(tmp_path / name)
        page.until(lambda message=message: message in page.note)
        assert not page.note.startswith("<")
    page.click(0.2, 0.2)  # the photo before is still there
    assert not page.note
    assert page.mask() is not None

    page = visit("Video")
    page.upload(tmp_path / "notes.txt")
    page.until(lambda: "no video that can be read" in page.note)
    long = write_video(tmp_path / "long.mp4", moving_frames(LIMITS.frames + 1, 48, 64))
    page.upload(long)
    page.until(lambda: f"more than {LIMITS.frames} frames" in page.note)


def test_the_server_refuses_what_the_page_would_not_send(server):
    def status(method, path, body=b"", length=None):
        """Of an answer; more may be announced than is sent."""
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=SECONDS)
        connection.putrequest(method, path)
        connection.putheader("Content-Length", str(len(body) if length is None else length))
        connection.endheaders(body)
        with contextlib.closing(connection):
            return connection.getresponse().status

    assert status("PUT", "/upload", bytes(LIMITS.upload_bytes)) == 200
    assert status("PUT", "/upload", length=LIMITS.upload_bytes + 1) == 413
    assert status("POST", "/gradio_api/upload") == 404
    assert status("GET", "/gradio_api/file=/etc/hostname") == 404
    assert status("GET", "/gradio_api/info") == 404


def test_two_pages_at_once_do_not_see_each_others_photo(visit, photo_file, predictor, tmp_path):
    other_photo = np.ascontiguousarray(rocket()[::-1, :, ::-1])
    Image.fromarray(other_photo).save(tmp_path / "other.png")
    one, two = visit(), visit()
    one.look()
    one.open(photo_file)
    two.look()
    two.press("photo-undo")
    assert "Nothing is open here yet" in two.note
    two.open(tmp_path / "other.png")
    two.click(0.2, 0.2)
    theirs = SAM2ImagePredictor(refining_model())
    theirs.set_image(other_photo)
    np.testing.assert_array_equal(two.mask()[..., 3] > 0, masks_of(theirs, two.opened.photo.prompts, True))
    one.look()
    assert one.mask() is None
    one.click(0.2, 0.2)
    np.testing.assert_array_equal(one.mask()[..., 3] > 0, masks_of(predictor, one.opened.photo.prompts, True))
    assert len(one.server.state.pages) == 2

    three = visit()  # more than are held
    three.open(photo_file)
    two.look()
    two.press("photo-undo")
    assert "put away" in two.note
    assert two.part(".photo").is_displayed()


def test_who_leaves_is_forgotten(driver, server, photo_file):
    page = Page(driver, server)
    page.open(photo_file)
    held = len(server.state.pages)
    page.close()
    page.until(lambda: len(server.state.pages) == held - 1)


def test_a_video_is_clicked_on_tracked_with_progress_and_played(visit, tmp_path):
    page = visit("Video")
    page.open(write_video(tmp_path / "clip.mp4", moving_frames(FRAMES, HEIGHT, WIDTH)))
    page.press("clip-track")
    assert "Click on the object" in page.note
    page.answers(
        lambda: page.driver.execute_script(
            "arguments[0].value = 3; arguments[0].dispatchEvent(new Event('input'))", page.part(".frame")
        )
    )
    page.click(0.3, 0.5)
    clip = page.opened.clip
    assert list(clip.clicks) == [3]
    np.testing.assert_array_equal(page.mask()[..., 3] > 0, clip.mask(3))

    # The turn after the first frame is taken by another, so that the bar stands still.
    turns, reached, seen = page.server.state.turns, threading.Event(), threading.Event()

    def stand_between():
        with turns:
            reached.set()
            seen.wait(SECONDS)

    other = threading.Thread(target=stand_between)
    before = page._answered()
    with turns:
        page.driver.find_element(By.ID, "clip-track").click()
        page.until(lambda: turns._came == turns._served + 2)
        other.start()
        page.until(lambda: turns._came == turns._served + 3)
    assert reached.wait(SECONDS)
    page.until(lambda: page._shown(".progress-bar"))
    page.until(lambda: f"1/{FRAMES} frames" in page.driver.find_element(By.TAG_NAME, "body").text)
    seen.set()
    other.join()
    page.until(lambda: page._answered() != before)
    assert not page.note
    assert all(clip.mask(index) is not None for index in range(FRAMES))

    video = page.part("video")
    page.until(lambda: page.driver.execute_script("return arguments[0].readyState >= 2", video))
    facts = page.driver.execute_script(
        "const v = arguments[0]; return [v.videoWidth, v.videoHeight, v.duration]", video
    )
    assert facts == [WIDTH, HEIGHT, pytest.approx(FRAMES / 12, abs=0.1)]
    page.driver.execute_async_script("arguments[0].onended = arguments[1]; arguments[0].play()", video)


def test_nothing_is_kept_and_nobody_else_is_asked(driver, server, outside, temporary):
    """After all of the above."""
    assert not [path for path in temporary.rglob("*") if path.is_file()]
    assert not outside
    requests = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in requests if m["method"] == "Network.requestWillBeSent"}
    assert asked
    assert not [url for url in asked if not url.startswith((server.url, "data:", "blob:", "chrome:"))]
    errors = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [message for message in errors if "413" not in message]
