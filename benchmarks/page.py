"""The page of `python -m MaskGIL play` in a real browser: how soon it is there, how soon steps are.

A step is late by the time from the end of its computation to its pictures standing on the page, by
the clock that browser and server share. Needs weights, and Debian's chromium and chromium-driver.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from browser import MISSING, Browser, browsers
from paired import RESULTS, command, machine

from MaskGIL.config import require_at_least, to_dict
from MaskGIL.durable import replace_file, to_json
from MaskGIL.play import PlayConfig, open_page, page_server
from Network.config import UserError, setting

SIZES = (1180, 960)
LISTEN = """
window.late = []; window.drawn = []; window.shown = []; window.hidden = [];
document.addEventListener('shown', ({ detail }) => {
  late.push(detail.late); hidden.push(detail.hidden);
});
document.addEventListener('drawn', ({ detail }) => {
  drawn.push(detail.seconds); shown.push(detail.seconds_shown);
});
"""
SET = """
const input = document.getElementById(arguments[0]);
input.value = arguments[1];
for (const kind of ['input', 'change']) input.dispatchEvent(new Event(kind, { bubbles: true }));
"""


@dataclass(frozen=True)
class PageBenchmark(PlayConfig):
    """Which weights, how many drawings, and where screenshots go."""

    weights: str = setting("runs/demo/generator/weights", "weights folder of a generator")
    port: int = setting(0, "port to answer at; 0: one that is free")
    drawings: int = setting(20, "drawings of one picture, by eight steps")
    screenshots: str = setting("", "folder for pictures of the page; empty: none")

    def __post_init__(self):
        super().__post_init__()
        require_at_least("drawings", self.drawings, 2)


def measure(config: PageBenchmark) -> None:
    """Open the page, draw, and write what it took."""
    if MISSING:
        raise UserError(f"No browser here: it {MISSING}.")
    with browsers() as (window,):
        window.resize(*SIZES)
        with served(config) as address:
            began = time.perf_counter()
            window.open(address)
            window.wait("return document.querySelector('#told').textContent")
            ready = time.perf_counter() - began
            window.run(LISTEN)
            window.run(SET, "num_steps", 8)
            for number in range(1, config.drawings + 1):
                window.click("#draw")
                window.wait(f"return drawn.length >= {number}")
            late, seconds, shown = (
                window.run(f"return {key}") for key in ("late", "drawn", "shown")
            )
            if config.screenshots:
                photograph(window, Path(config.screenshots))
    found = {
        "what": __doc__,
        "command": " ".join(["python", "benchmarks/page.py", *sys.argv[1:]]),
        "settings": to_dict(config),
        "machine": machine(),
        "seconds_until_interactive": round(ready, 3),
        "milliseconds_late": _spread(late),
        "seconds_of_eight_steps": _spread(seconds),
        "seconds_with_previews": _spread(shown),
        "load_of_the_machine": round(os.getloadavg()[0], 1),
    }
    replace_file(RESULTS / "page.json", to_json(found) + b"\n")
    for key in list(found)[4:]:
        print(f"{key:28}{found[key]}")


@contextmanager
def served(config: PageBenchmark) -> Iterator[str]:
    """The address of a page that answers meanwhile."""
    with page_server(config, *open_page(config)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{config.host}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def photograph(window: Browser, folder: Path) -> None:
    """The page while it draws, behind it, its confidence map, and while one paints."""
    folder.mkdir(parents=True, exist_ok=True)
    window.click(".chip:nth-child(7)")
    window.run(SET, "num_images", 4)
    window.run(SET, "num_steps", 12)
    window.run("$ = (id) => document.getElementById(id); $('fresh').checked = false")
    window.run(SET, "seed", 3)
    window.run("late.length = drawn.length = 0")
    window.click("#draw")
    window.wait("return late.length >= 8")
    window.photograph(folder / "play-step.png")
    window.wait("return drawn.length")
    window.run("document.activeElement.blur()")
    window.photograph(folder / "play-done.png")
    window.click("#map + span")
    window.wait("return document.querySelector('#board canvas').width < 32")
    window.photograph(folder / "play-confidence.png")
    window.click("#map + span")
    window.click(".thumb:nth-child(2)")
    window.click("#again")
    window.wait("return document.querySelector('.paint') && scrollY === 0")
    window.drag(".paint", [(-90, 120), (-20, 150), (60, 140), (110, 100)])
    window.photograph(folder / "play-paint.png")
    window.click("#draw")
    window.wait("return drawn.length >= 2")
    window.run("document.activeElement.blur()")
    window.photograph(folder / "play-repainted.png")


def _spread(numbers: list[float]) -> dict[str, float]:
    """Median, what 95 of 100 stay below, and most."""
    high = quantiles(numbers, n=20, method="inclusive")[-1]
    found = {"median": median(numbers), "95 %": high, "max": max(numbers)}
    return {name: round(number, 3) for name, number in found.items()}


if __name__ == "__main__":
    sys.exit(command(measure, PageBenchmark, "page", __doc__ or ""))
