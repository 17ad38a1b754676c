"""The pages used by mouse, touch and keyboard."""

import itertools
import sqlite3
from contextlib import closing

import pytest
from axe_playwright_python.sync_playwright import Axe

from indexer.web import MENU
from tests.helpers.pages import corrections

PAGES = [*(path for _, path in MENU), "/library/tracks/1", "/library/by_genre", "/library/duplicates", "/-/duplicates"]
MISTAKES = ["/nothing", "/library?sql=update+files+set+id=1", "/library?sql=select+fro+tracks"]
DATASETTES = ["/library", "/library/files", "/library?sql=select+fro+tracks"]
ITS_FORMS = ("label", "select-name")  # fields without a name, in Datasette's own templates


def track_of(served, name):
    with closing(sqlite3.connect(served.cli.db)) as conn:
        return conn.execute("SELECT id FROM files WHERE path_text LIKE ?", (f"%{name}",)).fetchone()[0]


@pytest.mark.parametrize("path", [*PAGES, *MISTAKES, *DATASETTES[:2]])
def test_a_page_fits_and_is_usable_by_everybody(tab, shared, path):
    """At phone and desktop width, light and dark, with the same menu and the foot at the foot."""
    page = tab(shared, path, fails=path in MISTAKES)
    assert page.locator("header nav a").all_text_contents() == [*(label for label, _ in MENU), "Tables and SQL"]
    assert page.title().endswith(" · indexer")
    foot = page.locator("footer").bounding_box()
    assert foot["y"] + foot["height"] >= page.viewport_size["height"] - 1
    page.wait_for_load_state("networkidle")
    for width, scheme in itertools.product((390, 1280), ("light", "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("() => document.scrollingElement.scrollWidth <= window.innerWidth"), (
            f"wider than {width} pixels"
        )
        found = Axe().run(page)
        serious = [
            f"{width} {scheme} {rule['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for rule in found.response["violations"]
            if rule["impact"] in ("serious", "critical") and not (path in DATASETTES and rule["id"] in ITS_FORMS)
            for node in rule["nodes"]
        ]
        assert serious == []


def test_the_bars_say_how_sure_it_is(tab, shared):
    page = tab(shared, "/library/tracks/1")
    bars = page.locator("#bars li")
    bars.first.wait_for()
    assert bars.count() == 5
    values = [float(text.rstrip(" %")) for text in page.locator("#bars .ix-short").all_text_contents()]
    assert values == sorted(values, reverse=True)
    assert bars.first.locator(".ix-label").text_content() == page.locator(".ix-genre").text_content()
    exact = bars.nth(1).locator(".ix-exact")
    assert not exact.is_visible()
    bars.nth(1).hover()
    assert exact.is_visible()
    bars.nth(2).focus()
    assert bars.nth(2).locator(".ix-exact").is_visible()
    assert "threshold" in bars.nth(2).get_attribute("title")


@pytest.mark.parametrize("name", ["mp3 track.mp3", "flac track.flac", "opus track.opus", "m4a track.m4a"])
def test_the_player_seeks_where_the_timeline_is_clicked(tab, shared, name):
    page = tab(shared, f"/library/tracks/{track_of(shared, name)}")
    page.wait_for_function("() => document.getElementById('player').readyState >= 1")
    line = page.locator("svg.ix-timeline")
    box = line.bounding_box()
    line.click(position={"x": box["width"] * 0.75, "y": box["height"] / 2})
    page.wait_for_function(
        "() => Math.abs(document.getElementById('player').currentTime - 15) < 1"
        " && !document.getElementById('player').seeking"
    )
    assert line.get_attribute("aria-valuenow") == "15"
    line.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => Math.abs(document.getElementById('player').currentTime - 10) < 1")
    assert "0:10" in line.get_attribute("aria-valuetext")
    page.locator("#timeline .ix-play").click()
    page.wait_for_function("() => document.getElementById('player').currentTime > 10.2")
    assert "/ 0:20" in page.locator("#timeline .ix-soft").first.text_content()
    assert float(line.locator("line").get_attribute("x1")) > 500


def test_what_sounds_alike_plays_at_the_foot_and_is_told_in_words(tab, shared):
    page = tab(shared, "/library/tracks/1")
    answer = {
        "state": "ready",
        "tracks": [
            {
                "id": 2,
                "path": "/a.mp3",
                "title": "Twice",
                "artist": "A",
                "similarity": 0.9,
                "tempo_bpm": 128.2,
                "duration_s": 60,
            },
            {"id": 3, "path": "/b.mp3", "title": "twice", "artist": "a", "similarity": 0.6, "duration_s": 60.5},
            {"id": 4, "path": "/c.mp3", "title": None, "artist": None, "similarity": 0.3, "label": "house"},
            {"id": 5, "path": "/d.mp3", "title": "Unlike", "artist": "B", "similarity": -0.5},
        ],
    }
    page.route("**/-/similar/1.json", lambda route: route.fulfill(json=answer))
    page.reload()
    rows = page.locator("#similar tbody tr")
    rows.nth(1).wait_for()
    assert rows.locator("td:nth-child(2)").all_text_contents() == ["A – Twice in 2 files", "c.mp3"]
    assert rows.locator("td:nth-child(4)").all_text_contents() == ["128", ""]
    words = rows.locator("meter").evaluate_all("all => all.map(one => one.title)")
    assert words == ["very much alike", "a little alike"]
    rows.first.get_by_role("button").click()
    page.locator("#ix-player .ix-player-name", has_text="A – Twice").wait_for()
    page.wait_for_function(
        "() => document.querySelector('.ix-similar .ix-play').getAttribute('aria-pressed') === 'true'"
    )


def test_what_mixes_well_is_told_with_its_reasons_and_with_what_is_missing(tab, shared):
    page = tab(shared, "/library/tracks/1")
    why = {"sound": "alike (0.61)", "key": "a fifth up (8A to 9A)", "tempo": "1.6 % faster (126 to 128 BPM)"}
    track = {
        "id": 2,
        "path": "/a.mp3",
        "title": "Next",
        "artist": "A",
        "similarity": -0.2,
        "tempo_bpm": 128,
        "key": "9A",
    }
    mix = {"tempo_bpm": 126.0, "key": "8A", "missing": [], "unknown": 3}
    answer = {"state": "ready", "tracks": [{**track, "reasons": why}], "mix": mix}
    page.route("**/-/similar/1.json?mix=1", lambda route: route.fulfill(json=answer))
    page.reload()
    row = page.locator("#mix tbody tr")
    row.wait_for()
    assert row.locator("td").all_text_contents()[1:] == [
        "A – Next",
        "",
        "128",
        "9A",
        *[why[k] for k in ("key", "tempo", "sound")],
    ]
    assert "3 passed over" in page.locator("#mix").text_content()
    answer |= {"tracks": [], "mix": {"tempo_bpm": None, "key": None, "missing": ["no key: it is noise"], "unknown": 0}}
    page.reload()
    page.locator("#mix", has_text="This track has no key: it is noise.").wait_for()


def test_review_by_keyboard(own, tab):
    page = tab(own, "/-/review")
    page.wait_for_function("() => document.getElementById('name').textContent !== ''")
    first = page.locator("#name").text_content()
    page.keyboard.press("2")
    page.wait_for_function("name => document.getElementById('name').textContent !== name", arg=first)
    said = corrections(own.cli.db)
    assert {genre for _, genre in said} == {"drum and bass"}
    assert any(path.endswith(first) for path, _ in said)
    page.keyboard.press("s")
    page.wait_for_function("() => document.getElementById('done').textContent === '1 labelled, 1 skipped'")
    page.keyboard.press("u")
    page.keyboard.press("u")
    page.wait_for_function("name => document.getElementById('name').textContent === name", arg=first)
    assert "taken back" in page.locator("#state").text_content()
    assert corrections(own.cli.db) == []
    for _ in range(7):
        page.wait_for_function("() => !document.getElementById('card').hidden")
        name = page.locator("#name").text_content()
        page.keyboard.press("5")
        page.wait_for_function(
            "name => document.getElementById('card').hidden || document.getElementById('name').textContent !== name",
            arg=name,
        )
    assert "Nothing more to ask" in page.locator("#state").text_content()
    assert len(corrections(own.cli.db)) == 8  # one recording lies in two files


def test_a_label_by_finger_on_the_track_page(own, tab):
    page = tab(own, f"/library/tracks/{track_of(own, 'wav track.wav')}", width=390)
    steps = page.evaluate("history.length")
    page.get_by_role("button", name="techno").tap()
    page.get_by_text("you said so").wait_for()
    assert page.evaluate("history.length") == steps  # Back leads where one came from
    assert [genre for _, genre in corrections(own.cli.db)] == ["techno"]
    page.get_by_role("button", name="Take back").tap()
    page.get_by_text("you said so").wait_for(state="detached")
    assert corrections(own.cli.db) == []


def test_a_hostile_name_is_a_name(tab, shared):
    page = tab(shared, f"/library/tracks/{track_of(shared, 'hostile%')}")
    assert "<img src=x onerror=alert(1)>" in page.locator("h1").text_content()
    assert page.locator("img:not(.ix-cover img)").count() == 0


def test_tables_filter_and_lead_to_a_track(tab, shared):
    page = tab(shared, "/library/tracks")
    page.locator(".facet-info a", has_text="flac").first.click()
    page.wait_for_url("**/library/tracks?*container=flac*")
    page.locator("table.rows-and-columns td a").first.click()
    page.wait_for_url("**/library/tracks/*")
    page.locator("#bars li").first.wait_for()


def test_an_upload_is_heard_while_one_waits(tab, shared):
    page = tab(shared, "/-/classify")
    music = shared.cli.folder.parent / "music"
    page.locator("#files").set_input_files([music / "mp3 track.mp3", music / "flac track.flac"])
    page.locator("#files").set_input_files(
        {"name": "<b>not music</b>.mp3", "mimeType": "audio/mpeg", "buffer": b"no music" * 500}
    )
    page.locator("#results .ix-bars").nth(1).wait_for()
    page.locator("#results .ix-bad").wait_for()
    panels = page.locator("#results article")
    assert panels.count() == 3
    names = ["mp3 track.mp3", "flac track.flac", "<b>not music</b>.mp3"]
    assert panels.locator("h2").all_text_contents() == names  # in the order in which they were chosen
    assert "not audio" in panels.nth(2).text_content()
    for panel in (panels.nth(0), panels.nth(1)):
        assert panel.locator(".ix-bars li").count() == 5
        assert panel.locator("svg.ix-timeline rect").count() >= 2
    with closing(sqlite3.connect(shared.cli.db)) as conn:
        assert conn.execute("SELECT count(*) FROM files").fetchone() == (8,)


def test_the_map_tells_plays_and_encircles(tab, shared):
    page = tab(shared, "/-/map")
    page.get_by_text("recordings; paler points").wait_for()
    assert page.locator("#state").text_content().startswith("7 recordings")  # one recording lies in two files
    canvas = page.locator("#map")
    box = canvas.bounding_box()
    canvas.scroll_into_view_if_needed()

    def found():
        """A place on the canvas where a point is, by its colour."""
        return page.evaluate("""() => {
            const canvas = document.getElementById("map"), { width, height } = canvas;
            const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            const seen = (n) => pixels[4 * n + 3];
            for (let n = 0; n < width * height; n++)
                if (seen(n)) return [(n % width) / width, Math.floor(n / width) / height];
        }""")

    page.wait_for_timeout(300)
    x, y = found()
    canvas.hover(position={"x": x * box["width"] + 3, "y": y * box["height"] + 3})
    page.locator("#tip").wait_for()
    assert page.locator("#tip").text_content()
    canvas.click(position={"x": x * box["width"] + 3, "y": y * box["height"] + 3})
    page.locator("#now a").wait_for()
    page.wait_for_function("() => document.getElementById('player').currentTime > 0.2")
    page.get_by_role("button", name="Encircle").click()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    box = canvas.bounding_box()
    corners = [(2, 2), (box["width"] - 2, 2), (box["width"] - 2, box["height"] - 2), (2, box["height"] - 2)]
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    for right, down in corners[1:]:
        page.mouse.move(box["x"] + right, box["y"] + down, steps=5)
    page.mouse.up()
    page.get_by_text("7 tracks encircled").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Playlist").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0] == "#EXTM3U"
    assert len([line for line in lines if not line.startswith("#")]) == 7
    page.get_by_role("link", name="Show as table").click()
    page.wait_for_url("**/library/tracks?id__in=*")
    page.get_by_text("7 rows").first.wait_for()


def test_a_genre_is_taken_off_the_map(tab, shared):
    page = tab(shared, "/-/map")
    buttons = page.locator("#legend button")
    buttons.first.wait_for()
    painted = """() => {
        const canvas = document.getElementById("map");
        return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean);
    }"""
    page.wait_for_function(painted)
    for n in range(buttons.count()):
        buttons.nth(n).click()
        assert buttons.nth(n).get_attribute("aria-pressed") == "false"
    page.wait_for_function(f"() => !({painted})()")


def test_the_sql_editor_is_dark_in_the_dark(tab, shared):
    page = tab(shared, "/library?sql=select+'a',+1,+count(*)+from+files+--+b", scheme="dark")
    editor = page.locator(".CodeMirror")
    editor.wait_for()
    assert editor.evaluate("editor => getComputedStyle(editor).backgroundColor") == "rgb(28, 35, 43)"  # --ix-panel
    found = Axe().run(page, ".CodeMirror", {"runOnly": ["color-contrast"]})
    assert found.violations_count == 0, found.generate_report()
