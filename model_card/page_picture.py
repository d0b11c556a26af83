"""Takes the picture of the page that README.md shows: the sandbox model and a video of the sandbox, in Chromium.

    python -m model_card.page_picture --output docs/page.png

Needs Chromium and its driver (Debian: chromium, chromium-driver) and selenium.
"""

import io
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image

from dataset_builders.command_line import one_line_errors, parse_options
from dataset_builders.sandbox import make_world
from dataset_builders.sandbox.world import TimeLine

from .release.space_release import SPACE, run_app


PROGRAM = "python -m model_card.page_picture"
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --window-size=1280,1060"
COLORS = 256  # of the picture, to keep it small


@dataclass
class PictureOptions:
    """Options of `python -m model_card.page_picture`."""

    output: Path = field(metadata={"help": "PNG file to write."})
    model: Path = field(default=Path("examples/sandbox_checkpoint"), metadata={"help": "Checkpoint folder."})
    seed: int = field(default=101, metadata={"help": "Of the video."})
    query: str = field(
        default="balloon rising, dog barking, thunder rumbling, rain falling",
        metadata={"help": "Events to find, separated by commas."},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    from selenium import webdriver

    options = parse_options(PictureOptions, arguments, program=PROGRAM, description=__doc__.splitlines()[0])
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise ValueError("no Chromium here: install chromium and chromium-driver")
    settings = webdriver.ChromeOptions()
    settings.binary_location = chromium
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for flag in (*FLAGS.split(), f"--user-data-dir={scratch / 'profile'}"):
            settings.add_argument(flag)
        line = TimeLine(event_seconds=(4.0, 12.0), video_seconds=(20, 40))
        make_world(scratch / "world", num_clips=0, num_test_videos=1, seed=options.seed, time_line=line)
        (video,) = (scratch / "world" / "test").glob("*.mp4")
        log = scratch / "page" / "log.txt"
        log.parent.mkdir()
        with run_app(SPACE, model=options.model, log=log, deadline=time.monotonic() + 600) as address:
            browser = webdriver.Chrome(options=settings, service=webdriver.ChromeService(driver))
            try:
                browser.implicitly_wait(120)
                browser.get(address)
                browser.find_element("css selector", "#video input[type=file]").send_keys(str(video))
                browser.find_element("css selector", "#video video")
                browser.find_element("css selector", "#query textarea, #query input").send_keys(options.query)
                browser.find_element("css selector", "button#find").click()
                browser.find_element("css selector", "#timeline .event")
                time.sleep(2)  # transitions
                picture = PIL.Image.open(io.BytesIO(browser.get_screenshot_as_png()))
            finally:
                browser.quit()
        options.output.parent.mkdir(parents=True, exist_ok=True)
        picture.convert("RGB").quantize(COLORS).save(options.output, optimize=True)
    print(f"wrote {options.output}, {options.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    with one_line_errors(PROGRAM):
        main()
