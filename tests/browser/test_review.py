"""Review from the first label to the genres in the files, in the browser."""

import itertools

import pytest
from axe_playwright_python.sync_playwright import Axe

from indexer.library.lock import library_lock
from tests.helpers.contents import contents
from tests.helpers.labelled import sql
from tests.helpers.pages import corrections


def asked(page):
    """The number of the track that is asked about, and how many there are."""
    return page.locator("#place").text_content()


def answer(page, genre):
    before = asked(page)
    page.get_by_role("button", name=genre).click()
    page.wait_for_function(
        "before => document.getElementById('card').hidden || document.getElementById('place').textContent !== before",
        arg=before,
    )


@pytest.mark.slow_first
def test_from_the_first_label_to_the_genres_in_the_files(fresh, tab):
    """Nothing is written before the second button, and the work outlives the page that began it."""
    music = fresh.cli.folder.parent / "unlabelled"
    before = contents(music)
    page = tab(fresh, "/-/review")
    page.locator("#card").wait_for()
    assert asked(page) == "1 of 12"
    assert page.locator("#chart").text_content() == ""
    page.get_by_text("A head, which turns what was heard into a genre, needs 5 tracks of each of two genres").wait_for()
    train = page.get_by_role("button", name="Train now")
    assert not train.is_visible()
    while page.locator("#card").is_visible():
        answer(page, page.locator("#name").text_content().split(" – ")[1].rsplit(" ", 1)[0])
    page.get_by_text("All are asked.").wait_for()
    page.get_by_role("link", name="There are enough labels to train").wait_for()
    train.focus()
    page.keyboard.press("Enter")
    cancel = page.get_by_role("button", name="Cancel")
    cancel.wait_for()
    assert page.evaluate("document.activeElement.id") == "cancel"
    page.reload()
    page.get_by_text("is in use. 12 of 12 recordings decided.").wait_for()
    page.get_by_text("Always guessing").or_(page.get_by_text("always guessing the commonest")).wait_for()
    page.locator("#offer summary").click()
    assert page.locator("#offer tbody tr").count() == 12
    assert contents(music) == before
    for width, scheme in itertools.product((390, 1280), ("light", "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("() => document.scrollingElement.scrollWidth <= window.innerWidth"), width
        violations = Axe().run(page).response["violations"]
        assert [rule for rule in violations if rule["impact"] in ("serious", "critical")] == []
    page.get_by_role("button", name="Write the genre into 12 files").focus()
    page.keyboard.press("Enter")
    page.get_by_text("12 genres written. To take them back: indexer tags undo --since ").wait_for()
    assert contents(music) != before
    assert page.evaluate("document.activeElement.id") in ("train", "look")  # not lost with the buttons that are gone
    since = page.locator("#training-state").text_content().split()[-1]
    assert len(fresh.cli.json("tags", "undo", "--since", since)["restored"]) == 12
    page.get_by_role("button", name="What would be written?").click()
    page.get_by_text("Nothing is to be written").wait_for()  # an undone genre is not written again


def test_a_training_is_cancelled_and_says_so(fresh, tab):
    page = tab(fresh, "/-/review")
    page.locator("#card").wait_for()
    with library_lock(fresh.cli.db):
        page.evaluate("""() => fetch("/-/train", { method: "POST", body: JSON.stringify({ do: "train" }), headers: {
            "content-type": "application/json",
            "x-csrftoken": document.querySelector("meta[name=csrf-token]").content } })""")
        page.reload()
        page.get_by_text("Waiting: ").wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled: nothing has changed.").wait_for()


def test_on_a_phone_the_labels_stand_above_the_bars(own, tab):
    page = tab(own, "/-/review", width=390)
    page.locator("#chart .ix-bars").wait_for()
    answers, chart = (page.locator(f"#{name}").bounding_box() for name in ("answers", "chart"))
    assert answers["y"] + answers["height"] <= chart["y"]
    assert answers["y"] + answers["height"] <= 900  # without scrolling


def test_what_the_browser_cannot_play_is_said_at_once(own, tab):
    """AIFF by its kind, a file that is gone by what the player finds."""
    sql(own.cli.db, "UPDATE files SET container = 'aiff'")
    page = tab(own, "/-/review")
    page.get_by_text("This browser cannot play aiff files").wait_for()
    assert not page.locator("#player").is_visible()
    assert page.locator("#play").is_disabled()


def test_a_genre_of_ones_own_is_asked_about_once_more_and_then_has_a_button(fresh, chromium):
    page = chromium.new_page()  # not by `tab`: the browser itself writes of every 400
    try:
        page.goto(f"{fresh.url}/-/review")
        page.locator("#card").wait_for()
        page.get_by_label("Another genre").fill("Hardstyle")
        page.keyboard.press("Enter")
        page.get_by_text("'Hardstyle' is no genre here").wait_for()
        assert asked(page) == "1 of 12"
        page.get_by_role("button", name="Say it").click()
        page.get_by_text("2 of 12").wait_for()
        page.keyboard.press("6")  # the new button's key; the field has lost the focus
        page.get_by_text("3 of 12").wait_for()
        assert {genre for _, genre in corrections(fresh.cli.db)} == {"Hardstyle"}
        page.get_by_text("Hardstyle 2").wait_for()  # among the labels to train on
    finally:
        page.close()


def test_words_of_tags_that_mean_no_genre_are_a_kind_of_their_own(fresh, tab):
    sql(fresh.cli.db, "UPDATE tags SET genre = 'Electronic' WHERE file_id <= 3")
    page = tab(fresh, "/-/review")
    page.get_by_text("1 of 9").wait_for()
    page.get_by_role("link", name="Another word in the tag").click()
    page.get_by_text("1 of 3").wait_for()
    page.get_by_text("the tag says Electronic").wait_for()


def test_an_empty_library_says_how_it_begins(fresh, tab):
    sql(fresh.cli.db, "DELETE FROM files")
    page = tab(fresh, "/-/review")
    page.get_by_text("The library is empty: indexer scan FOLDER").wait_for()
    assert not page.get_by_role("button", name="Train now").is_visible()
