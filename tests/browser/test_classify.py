"""Uploads in the browser: refused before they are sent, waiting for a busy server, cancelled, and read aloud."""

import socket
import time

import pytest

from tests.helpers.synth import write_audio


@pytest.fixture
def page(tab, shared):
    return tab(shared, "/-/classify")


@pytest.fixture
def endless(tmp_path):
    """An hour that states no length."""
    path = write_audio(tmp_path / "endless", "aac", 30.0, seed=8)
    path.write_bytes(120 * path.read_bytes())
    return path


@pytest.mark.parametrize("width", [390, 1280])
def test_the_label_is_one_sentence_over_its_field(tab, shared, width):
    page = tab(shared, "/-/classify", width=width)
    label, field = (page.locator(f"#drop {name}").bounding_box() for name in ("label", "input"))
    assert label["width"] > 0.8 * page.locator("#drop").bounding_box()["width"]
    assert label["y"] + label["height"] <= field["y"]


def test_what_is_too_large_is_never_sent(page, tmp_path):
    sent = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    large = tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate((500 << 20) + 1)
    page.locator("#files").set_input_files(large)
    page.locator("#results .ix-bad").wait_for()
    assert page.locator("#results .ix-bad").text_content() == "larger than 500 MB"
    assert sent == []


def test_a_recording_of_unknown_length_shows_how_much_was_heard_and_can_be_given_up(page, endless, shared):
    page.locator("#files").set_input_files(endless)
    page.get_by_text("heard").wait_for()
    bar = page.locator("#results progress")
    assert bar.get_attribute("value") is None
    cancel = page.get_by_role("button", name=f"Cancel {endless.name}")
    cancel.focus()
    page.keyboard.press("Enter")
    page.locator("#results .ix-bad").wait_for()
    assert page.locator("#results [role=status]").text_content() == "cancelled"
    page.locator("#files").set_input_files(shared.cli.folder.parent / "music" / "mp3 track.mp3")
    page.locator("#results .ix-bars").wait_for()
    assert page.locator("#results article").last.locator("[role=status] .ix-genre").count() == 1


def test_a_busy_server_is_waited_for_and_waiting_can_be_given_up(chromium, shared, endless):
    page = chromium.new_page()  # not by `tab`: the browser itself writes of every 503
    page.goto(f"{shared.url}/-/classify")
    host, port = shared.url.removeprefix("http://").split(":")
    places = []
    for _ in range(8):
        place = socket.create_connection((host, int(port)))
        place.sendall(
            b"POST /-/classify.json HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: audio/mpeg\r\nContent-Length: 1000000\r\n\r\nxxxx"
        )
        places.append(place)
    time.sleep(1)
    try:
        with page.expect_response(lambda response: response.status == 503):
            page.locator("#files").set_input_files(endless)
        page.get_by_text("the server is busy; waiting").wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.locator("#results .ix-bad").wait_for()
        assert page.locator("#results [role=status]").text_content() == "cancelled"
    finally:
        page.close()
        for place in places:
            place.close()


def test_files_are_dropped_anywhere(page, shared):
    page.evaluate("""async () => {
        const answer = await fetch(document.querySelector('link[rel=stylesheet]').href);
        const transfer = new DataTransfer();
        transfer.items.add(new File([await answer.blob()], 'style.mp3'));
        document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }""")
    page.locator("#results .ix-bad").wait_for()
    assert page.locator("#results h2").text_content() == "style.mp3"
    assert "not audio" in page.locator("#results [role=status]").text_content()
