"""Takes the pictures of docs/pages/ of the demo's library: every page in a wide window, some on a phone in the dark.

    python -m tests.make_screenshots [FOLDER]

FOLDER: a demo that is there already; else one is made, which takes a minute. Needs chromium. The music is synthesised,
so the genres in the pictures say nothing about how well it knows real music.
"""

import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from indexer.library.readonly import open_readonly
from tests.helpers.chromium import CHROMIUM, QUIET

PICTURES = Path(__file__).parents[1] / "docs" / "pages"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 780}


def pages(track: int) -> dict[str, str]:
    """The pictures' names and the pages' addresses."""
    return {
        "overview": "/",
        "tracks": "/-/tracks",
        "track": f"/library/tracks/{track}",
        "review": "/-/review",
        "map": "/-/map",
        "classify": "/-/classify",
        "question": "/library/by_genre?genre=techno",
        "table": "/library/tracks",
        "missing": "/-/nothing-here",
    }


@contextmanager
def served(db: Path):
    """The address of `indexer serve` for a library."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "indexer", "serve", "--db", str(db), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            while process.poll() is None:
                try:
                    urllib.request.urlopen(f"{url}/-/now.json", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()


def take(page: Page, url: str, name: str) -> None:
    """Save what the window shows of a page."""
    page.goto(url)
    page.wait_for_load_state("networkidle")
    page.evaluate("scrollTo(0, 0)")  # where something else has the focus
    page.screenshot(path=PICTURES / f"{name}.jpg", type="jpeg", quality=80)


def main(folder: Path) -> None:
    """Make the demo where there is none, and take all pictures."""
    db = folder / "library.db"
    if not db.exists():
        subprocess.run([sys.executable, "-m", "indexer", "demo", str(folder)], check=True)
    with closing(open_readonly(db)) as conn:
        (track,) = conn.execute("SELECT id FROM tracks WHERE genre = 'trance' ORDER BY id LIMIT 1").fetchone()
    PICTURES.mkdir(exist_ok=True)
    with served(db) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        wide = browser.new_page(viewport=WIDE)
        phone = browser.new_page(viewport=PHONE, color_scheme="dark", device_scale_factor=2)
        for name, path in pages(track).items():
            take(wide, url + path, name)
            if name in ("overview", "tracks", "track"):
                take(phone, url + path, f"{name}-phone")
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made, "demo"))
