"""A headless browser: Chromium, driven over WebDriver by the standard library alone."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
DRIVER = shutil.which("chromedriver") or ""
MISSING = "" if CHROMIUM and DRIVER else "needs the Debian packages chromium and chromium-driver"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--force-color-profile=srgb", "--hide-scrollbars"),
]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # of the W3C's WebDriver


class Browser:
    """One window."""

    def __init__(self, url):
        self.url = url

    def open(self, address):
        """Go to a page."""
        self._post("url", url=address)

    def run(self, script, *words):
        """What a script returns; `words` are its arguments."""
        return self._post("execute/sync", script=script, args=list(words))

    def wait(self, script, seconds=60):
        """What a script returns as soon as that is anything true."""
        ends = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < ends, f"still not true: {script}\n{self.text()}"
            time.sleep(0.02)
        return found

    def click(self, selector):
        """As a mouse does."""
        self._post(f"element/{self._find(selector)}/click")

    def press(self, selector, keys):
        """Type into what is selected; keys without a letter are those of WebDriver, as \ue013."""
        self._post(f"element/{self._find(selector)}/value", text=keys)

    def drag(self, selector, moves):
        """Press the mouse at the middle of what is selected, move by so many pixels, let go."""
        origin = {ELEMENT: self._find(selector)}
        (first, *others), still = moves, {"type": "pointerMove", "duration": 20, "origin": origin}
        actions = [{**still, "x": first[0], "y": first[1]}, {"type": "pointerDown", "button": 0}]
        actions += [{**still, "x": x, "y": y} for x, y in others]
        actions += [{"type": "pointerUp", "button": 0}]
        self._post("actions", actions=[{"type": "pointer", "id": "mouse", "actions": actions}])

    def text(self):
        """What people can read."""
        return self.run("return document.body.innerText")

    def resize(self, width, height):
        """Of the window, in pixels."""
        self._post("window/rect", width=width, height=height)

    def photograph(self, path):
        """Write what the window shows as a PNG."""
        Path(path).write_bytes(base64.b64decode(call(f"{self.url}/screenshot")))

    def _find(self, selector):
        return self._post("element", using="css selector", value=selector)[ELEMENT]

    def _post(self, path, **values):
        return call(f"{self.url}/{path}", values)


@contextmanager
def browsers(count=1):
    """So many browsers that know nothing of each other."""
    with tempfile.TemporaryDirectory() as folder:
        command = [DRIVER, "--port=0", f"--log-path={folder}/log"]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        opened = []
        try:
            root = f"http://127.0.0.1:{port_of(driver.stdout)}/session"
            for number in range(count):
                profile = f"--user-data-dir={folder}/{number}"
                options = {"binary": CHROMIUM, "args": [*FLAGS, profile, "--window-size=1180,900"]}
                capabilities = {"alwaysMatch": {"goog:chromeOptions": options}}
                opened.append(call(root, {"capabilities": capabilities})["sessionId"])
            yield [Browser(f"{root}/{session}") for session in opened]
        finally:
            for session in opened:
                call(f"{root}/{session}", method="DELETE")
            driver.terminate()
            driver.wait(10)
            driver.stdout.close()


def port_of(lines):
    """Where chromedriver says that it has started."""
    for line in lines:
        if "started successfully on port" in line:
            return int(line.rstrip(".\n ").rpartition(" ")[2])
    raise AssertionError("chromedriver has not started")


def call(url, values=None, method=None):
    data = None if values is None else json.dumps(values).encode()
    request = Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"]) from None
