"""The map used by mouse and by keyboard."""

from xml.etree import ElementTree as ET

POINT = """() => {
    const canvas = document.getElementById("map"), { width, height } = canvas;
    const scale = canvas.getBoundingClientRect().width / width;
    const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    const middle = (n) => Math.hypot((n % width) - width / 2, Math.floor(n / width) - height / 2);
    let best = -1;
    for (let n = 0; n < width * height; n++) if (pixels[4 * n + 3] && (best < 0 || middle(n) < middle(best))) best = n;
    return best < 0 ? null : { x: (best % width) * scale, y: Math.floor(best / width) * scale };
}"""  # the place of a painted pixel nearest to the middle


def opened(tab, shared):
    page = tab(shared, "/-/map")
    page.wait_for_function(f"() => ({POINT})() !== null")
    page.locator("#map").scroll_into_view_if_needed()
    return page


def encircle(page, x, y, reach):
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + x - reach, box["y"] + y - reach)
    page.mouse.down()
    for right, down in ((1, -1), (1, 1), (-1, 1)):
        page.mouse.move(box["x"] + x + right * reach, box["y"] + y + down * reach, steps=4)
    page.mouse.up()


def test_what_is_encircled_after_zooming_is_what_lies_under_the_pointer(tab, shared):
    page = opened(tab, shared)
    place = page.evaluate(POINT)
    page.locator("#map").hover(position=place)
    page.mouse.wheel(0, -500)
    page.wait_for_timeout(300)
    place = page.evaluate(POINT)
    page.locator("#map").click(position=place)
    track = page.locator("#now a").get_attribute("href").rpartition("/")[2]
    page.get_by_role("button", name="Encircle").click()
    encircle(page, place["x"], place["y"], 14)
    page.get_by_text("1 track encircled").wait_for()
    assert page.locator("#ids").input_value() == track
    with page.expect_download() as download:
        page.get_by_role("button", name="rekordbox").click()
    (listed,) = ET.parse(download.value.path()).findall(".//NODE[@Type='1']/TRACK")
    assert listed.get("Key") == track
    page.locator("#map").focus()
    page.keyboard.press("Escape")
    assert page.locator("#chosen").is_hidden()


def test_without_a_pointer_the_middle_is_played(tab, shared):
    page = opened(tab, shared)
    canvas = page.locator("#map")
    canvas.focus()
    for _ in range(30):
        place, box = page.evaluate(POINT), canvas.bounding_box()
        if place and abs(place["x"] - box["width"] / 2) < 40 and abs(place["y"] - box["height"] / 2) < 40:
            break
        right, down = (place["x"] - box["width"] / 2, place["y"] - box["height"] / 2) if place else (0, 0)
        page.keyboard.press(
            ("ArrowRight" if right > 0 else "ArrowLeft")
            if abs(right) > abs(down)
            else ("ArrowDown" if down > 0 else "ArrowUp")
        )
        page.wait_for_timeout(80)
    page.keyboard.press("Enter")
    page.locator("#now a").wait_for()
    page.wait_for_function("() => document.getElementById('player').currentTime > 0.1")
