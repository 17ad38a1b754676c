"""A real browser (Debian's chromium) on a real `indexer serve` over a library that a real scan made."""

import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.chromium import CHROMIUM, QUIET
from tests.helpers.cli import Cli
from tests.helpers.libraries import adopt
from tests.helpers.once import once
from tests.helpers.synth import write_audio


@pytest.fixture(scope="module")
def chromium():
    """The browser, for one module.

    While it runs, its event loop runs in this thread; the tests of other modules start event loops of their own.
    """
    if CHROMIUM is None:
        pytest.skip(
            "no chromium on this machine (Debian: apt-get install chromium): the pages are not tried in a browser"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@dataclass
class Served:
    """A server and the library behind it."""

    url: str
    cli: Cli
    process: subprocess.Popen

    def end(self):
        self.process.terminate()
        self.process.communicate(timeout=20)


def serve(cli):
    """`indexer serve` as a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = cli.process("serve", "--port", port)
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 40
    while True:
        try:
            urllib.request.urlopen(f"{url}/-/now.json", timeout=5).close()
            return Served(url, cli, process)
        except OSError:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.1)


@pytest.fixture(scope="session")
def tracks(tmp_path_factory):
    """Eight tracks, two of them one recording."""

    def fill(music):
        for seed, container in enumerate(("mp3", "flac", "opus", "m4a")):
            write_audio(music / f"{container} track", container, 20.0, seed=seed)
        for seed, container in enumerate(("vorbis", "wav"), 4):
            write_audio(music / f"{container} track", container, 8.0, seed=seed)
        write_audio(music / "hostile <img src=x onerror=alert(1)> \"'&", "mp3", 8.0, seed=11)
        shutil.copy(music / "mp3 track.mp3", music / "the same again.mp3")

    return once(tmp_path_factory, "tracks", fill)


@pytest.fixture(scope="session")
def library(tmp_path_factory, tracks, rhythm_head):
    """Makes a library of one's own with these tracks, as a scan that decides from ``min_confidence`` leaves it."""

    def make(folder, min_confidence):
        def fill(state):
            cli = Cli(state, Path("rhythm"), rhythm_head)
            cli("scan", tracks, "--no-tags", env={"INDEXER_MIN_CONFIDENCE": min_confidence})

        state = once(tmp_path_factory, f"library decided from {min_confidence}", fill)
        music = Path(shutil.copytree(tracks, folder / "music"))
        cli = Cli(folder / "state", Path("rhythm"), rhythm_head)
        adopt(cli, music, state=state, scanned=tracks)
        return cli

    return make


@pytest.fixture(scope="session")
def shared(tmp_path_factory, library):
    """For tests that only look."""
    made = serve(library(tmp_path_factory.mktemp("served"), "0"))
    yield made
    made.end()


@pytest.fixture
def windows():
    """The browser's windows of one test: closed before a server of its own ends, of which they may still ask."""
    return []


def close(windows):
    while windows:
        windows.pop().close()


@pytest.fixture
def own(tmp_path, library, windows):
    """For tests that change something: no recording in it has a decided genre."""
    made = serve(library(tmp_path, "1"))
    yield made
    close(windows)
    made.end()


@pytest.fixture
def fresh(unlabelled, windows):
    """A library without labels, tags and head; no encoder that needs torch."""
    made = serve(unlabelled[0])
    yield made
    close(windows)
    made.end()


@pytest.fixture
def tab(chromium, windows):
    """Opens a page in a browser of its own; fails afterwards when a script failed or another host was asked."""
    wrong = []

    def open_tab(served, path, *, width=1280, scheme="light", fails=False):
        """``fails``: the page itself is the answer to a mistake, which the console tells."""
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=width < 600
        )
        windows.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on(
            "console",
            lambda message: (
                wrong.append(f"console: {message.text}")
                if message.type == "error" and not (fails and "Failed to load resource" in message.text)
                else None
            ),
        )
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((served.url, "data:", "blob:")) else wrong.append(f"asked {request.url}")
            ),
        )
        page.goto(served.url + path)
        return page

    yield open_tab
    close(windows)
    assert wrong == []
