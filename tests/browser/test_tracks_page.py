"""The Tracks page in a browser: going on without leaving it, the player that stays, selecting, labelling, keys."""

import itertools
import sqlite3
from contextlib import closing

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.helpers.pages import corrections, id_of

ROWS = "#rows tr"


def playing(page, title):
    """Wait until the player says so."""
    page.locator(".ix-player-name", has_text=title).wait_for()
    page.wait_for_function("() => document.querySelector('.ix-play[aria-pressed=true]')")


def many_tracks(db, count):
    """Add rows of files that are not there, so that the list is long."""
    with closing(sqlite3.connect(db)) as conn:
        for n in range(count):
            path = f"/somewhere/a long name of a folder/{n:03} - a title that is longer than a phone is wide.mp3"
            conn.execute(
                "INSERT INTO files (path, path_text, container, dev, ino, size, mtime_ns, state, first_seen, last_seen)"
                " VALUES (?, ?, 'mp3', 9, ?, 1, 1, 'ready', '2020-01-01T00:00:00Z', '')",
                (path.encode(), path, n),
            )
        conn.commit()


def test_filters_searches_and_orders_are_gone_through_with_back(tab, shared):
    page = tab(shared, "/-/tracks")
    page.evaluate("window.isSame = true")
    assert page.locator(ROWS).count() == 8
    page.locator("summary", has_text="Format").click()
    page.locator(".ix-filter", has_text="flac").click()
    page.wait_for_url("**/-/tracks?format=flac")
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 1")
    assert page.locator("details[open]").count() == 1  # what was opened stays open
    assert "flac" in page.evaluate("document.activeElement.dataset.key")  # and the keyboard where it was
    page.locator(".ix-filter[aria-current]", has_text="flac").click()
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 8")
    page.get_by_role("searchbox").fill("hostile")
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 1")
    assert page.url.endswith("?q=hostile")
    page.go_back()
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 8")
    assert page.get_by_role("searchbox").input_value() == ""
    page.go_back()
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 1")
    page.go_back()
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 8")
    page.get_by_role("link", name="Title").click()
    page.wait_for_url("**/-/tracks?sort=title")
    page.locator("th[aria-sort=ascending]").wait_for()
    titles = page.locator(".ix-title").all_text_contents()
    assert titles == sorted(titles, key=str.lower)
    assert page.evaluate("window.isSame")


def test_the_player_stays_while_one_browses(tab, shared):
    page = tab(shared, "/-/tracks?sort=title")
    row = page.locator(ROWS, has_text="flac track")
    row.get_by_role("button", name="Play flac track").click()
    playing(page, "flac track")
    page.get_by_role("link", name="Length").click()
    page.wait_for_url("**sort=length")
    assert page.locator(f"{ROWS}.ix-now .ix-title").text_content() == "flac track.flac"
    page.wait_for_function("() => !document.querySelector('.ix-player-time').textContent.startsWith('0:00')")
    page.get_by_role("link", name="Overview").click()
    page.wait_for_url(shared.url + "/")
    page.locator(".ix-player-name", has_text="flac track").wait_for()
    page.get_by_role("button", name="Pause").wait_for()  # it plays on
    page.wait_for_function("() => !document.querySelector('.ix-player-time').textContent.startsWith('0:00')")
    page.goto(f"{shared.url}/library/tracks/{id_of(shared.cli, 'mp3 track.mp3')}")
    page.get_by_role("button", name="Pause").wait_for()
    page.evaluate("document.getElementById('player').play()")  # the page's own player silences it
    page.locator("#ix-player [aria-label=Play]").click()  # and the other way round
    page.wait_for_function("() => document.getElementById('player').paused")
    page.get_by_role("button", name="Close the player").click()
    page.locator("#ix-player").wait_for(state="hidden")
    page.goto(shared.url + "/-/tracks")
    assert page.locator("#ix-player").is_hidden()


def test_all_by_keyboard(tab, own):
    page = tab(own, "/-/tracks?sort=title")
    titles = page.locator(".ix-title").all_text_contents()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    playing(page, titles[1])
    page.keyboard.press("Space")
    page.wait_for_function("() => !document.querySelector('.ix-play[aria-pressed=true]')")
    page.keyboard.press("n")
    page.locator(".ix-player-name", has_text=titles[2]).wait_for()
    page.keyboard.press("p")
    page.locator(".ix-player-name", has_text=titles[1]).wait_for()
    page.keyboard.press("x")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")
    assert page.locator("#many").text_content() == "2 selected"
    page.keyboard.press("l")
    page.keyboard.type("Techno")
    page.keyboard.press("Enter")
    page.get_by_text("2 tracks labelled techno").wait_for()
    assert page.locator(".ix-tag:not(.ix-outline)", has_text="techno").count() >= 2
    assert {genre for _, genre in corrections(own.cli.db)} == {"techno"}
    page.locator(".ix-title").first.focus()
    page.keyboard.press("u")
    page.get_by_text("taken back from 2 tracks").wait_for()
    assert corrections(own.cli.db) == []
    page.keyboard.press("/")
    page.keyboard.type("mp3 track")
    page.wait_for_function("() => document.querySelectorAll('#rows tr').length < 8")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")


def test_a_genre_of_ones_own_is_asked_about_once_more(chromium, own):
    context = chromium.new_context(viewport={"width": 390, "height": 900}, has_touch=True)
    page = context.new_page()  # no `tab`, which takes the refusal, an answer of 400, for an error
    page.goto(own.url + "/-/tracks")
    page.locator(f"{ROWS} .ix-pick input").first.tap()
    page.locator("#genre").fill("Tehcno")
    page.get_by_role("button", name="Say it").tap()
    page.get_by_text("did you mean 'techno'?").wait_for()
    assert corrections(own.cli.db) == []
    page.get_by_role("button", name="Say it").tap()
    page.get_by_text("1 track labelled Tehcno").wait_for()
    page.get_by_role("button", name="Undo").tap()
    page.get_by_text("taken back from 1 track").wait_for()
    assert corrections(own.cli.db) == []
    context.close()


def test_back_from_a_track_leads_to_the_same_place(tab, own):
    many_tracks(own.cli.db, 60)
    page = tab(own, "/-/tracks", width=390)
    link = page.locator(".ix-title").nth(62)
    link.scroll_into_view_if_needed()
    place = page.evaluate("window.scrollY")
    assert place > 1000
    link.click()
    page.wait_for_url("**/library/tracks/*")
    page.go_back()
    page.locator(ROWS).first.wait_for()
    page.wait_for_function("place => Math.abs(window.scrollY - place) < 100", arg=place)


def test_several_become_a_playlist(tab, shared):
    page = tab(shared, "/-/tracks?sort=title")
    boxes = page.locator(f"{ROWS} .ix-pick input")
    boxes.nth(1).click()
    boxes.nth(4).click(modifiers=["Shift"])
    assert page.locator("#many").text_content() == "4 selected"
    with page.expect_download() as download:
        page.get_by_role("button", name="Playlist").click()
    lines = download.value.path().read_text().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) == 4
    page.get_by_label("Select all on this page").check()
    assert page.locator("#many").text_content() == "8 selected"
    page.keyboard.press("Escape")
    assert page.locator("#chosen").is_hidden()


@pytest.mark.parametrize("width", [390, 1280])
def test_fifty_rows_fit(tab, own, width):
    many_tracks(own.cli.db, 42)
    page = tab(own, "/-/tracks", width=width)
    assert page.locator(ROWS).count() == 50
    height, wide = page.evaluate(
        "() => [document.scrollingElement.scrollHeight, document.scrollingElement.scrollWidth]"
    )
    assert wide <= width
    assert height < 50 * 70 + 900  # two lines a row; Datasette's table was 71,000


def test_it_reads_filters_and_sorts_without_javascript(chromium, shared):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(shared.url + "/-/tracks")
    page.get_by_role("searchbox").fill("flac")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**/-/tracks?q=flac", wait_until="load")
    assert page.locator(ROWS).count() == 1
    page.get_by_role("link", name="Title").click()
    page.wait_for_url("**/-/tracks?q=flac&sort=title", wait_until="load")
    page.locator(".ix-play").first.wait_for(state="hidden")
    page.get_by_role("link", name="flac track").click()
    page.wait_for_url(f"**/library/tracks/{id_of(shared.cli, 'flac track.flac')}")
    context.close()


def test_what_opens_is_for_everybody(tab, shared):
    """The player with its queue, a panel of filters, the bar for what is selected, the help: in all four looks."""
    page = tab(shared, "/-/tracks")
    page.locator(".ix-play:enabled").first.click()
    page.get_by_role("button", name="Queue", exact=True).click()
    page.locator(f"{ROWS} .ix-pick input").first.click()
    page.locator("summary", has_text="Format").click()
    for width, scheme in itertools.product((390, 1280), ("light", "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("() => document.scrollingElement.scrollWidth") <= width
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    page.keyboard.press("Escape")
    assert page.locator("details[open]").count() == 0
    page.keyboard.press("?")
    assert Axe().run(page, "#help").violations_count == 0


def test_datasettes_own_table_is_read_on_a_phone_in_the_dark(tab, shared):
    page = tab(shared, "/library/tracks", width=390, scheme="dark")
    shown = page.evaluate("() => [document.scrollingElement.scrollWidth, document.scrollingElement.scrollHeight]")
    assert shown[0] <= 390
    assert shown[1] < 8 * 120 + 2500  # it was 1,400 a row
    heads = [text.split()[0] for text in page.locator("table.rows-and-columns th").all_text_contents()]
    assert heads[:5] == ["id", "title", "artist", "album", "label"]
    assert page.locator("pre.wrapped-sql").is_hidden()
    found = Axe().run(page, "table.rows-and-columns", {"runOnly": ["color-contrast"]})
    assert found.violations_count == 0, found.generate_report()
