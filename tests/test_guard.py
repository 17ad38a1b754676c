"""Which requests the guard before every page lets pass; and CSV whose cells no spreadsheet runs as formulas."""

import base64
import csv
import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.config import load_settings
from indexer.errors import ConfigError
from indexer.web.csv_cells import HarmlessCsv, harmless
from indexer.web.guard import why_refused
from indexer.web.serve import make_datasette


def asked(method="GET", target="/", settings=(), **headers):
    """The status that the guard answers with; None: it lets it pass."""
    values = load_settings(
        None, {"password": "pässword", "host": "192.0.2.7"} if settings == "served to others" else {}, {}
    )
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    refusal = why_refused(values, method, target, {"host": "127.0.0.1:8001", **given})
    return refusal[0] if refusal else None


def basic(password, user="anybody"):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, None),  # curl
        (
            {"origin": "http://127.0.0.1:8001", "cookie": "x=y"},
            None,
        ),  # a page of ours; Datasette asks for the token then
        ({"origin": "http://127.0.0.1:8001"}, 403),  # without the cookie nobody would ask for the token
        ({"origin": "http://127.0.0.1:9000", "cookie": "x=y"}, 403),  # another server on this machine
        ({"origin": "https://evil.example", "cookie": "x=y"}, 403),
        ({"origin": "null", "cookie": "x=y"}, 403),  # a sandboxed frame
        ({"origin": "http://[", "cookie": "x=y"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, None),
    ],
)
def test_a_post_of_another_site_is_refused(headers, status):
    assert asked("POST", **headers) == status


LINK = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}


@pytest.mark.parametrize("target", ["/", "/library/tracks", "/library.json?", "/-/map.bin", "/-/sound/1", "/-/review"])
@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"},  # another port
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
        {"sec_fetch_site": "what a later browser may say"},
        {"origin": "https://evil.example"},  # a browser that does not know the newer headers
        {"origin": "null"},
    ],
)
def test_no_other_site_reads_anything(target, headers):
    assert asked("GET", target, **headers) == asked("HEAD", target, **headers) == 403


@pytest.mark.parametrize("headers", [{}, {"sec_fetch_site": "same-origin"}, {"sec_fetch_site": "none", **LINK}])
def test_our_own_pages_and_programs_and_the_address_bar_read_everything(headers):
    assert asked("GET", "/library.json?", **headers) is None


@pytest.mark.parametrize("target", ["http://evil.example/", "//evil.example/", "*", ""])
def test_no_request_is_sent_elsewhere(target):
    assert asked("GET", target) == (None if target.startswith("/") else 400)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", None),
        ("/library/tracks/17", None),
        ("/library/tracks?", 403),  # asks the library something: the time of the answer would tell
        ("/library?", 403),
        ("/library.json", 403),
        ("/library/tracks.csv", 403),
    ],
)
def test_a_link_of_another_site_leads_to_a_page_but_asks_nothing(site, target, status):
    assert asked("GET", target, sec_fetch_site=site, **LINK) == status
    assert asked("POST", target, sec_fetch_site=site, **LINK) == 403


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        ("Basic", 401),
        ("Basic !!!", 401),
        ("Basic \xfc", 401),
        (basic("wrong"), 401),
        (basic("pässword"), None),
        (basic("pässword", "dj"), None),
        ("Bearer pässword", None),
        ("Bearer wrong", 401),
        ("Digest pässword", 401),
        (basic(""), 401),
    ],
)
def test_the_password_stands_before_everything(authorization, status):
    assert asked(settings="served to others", host="192.0.2.7:8001", authorization=authorization) == status


def test_beyond_this_machine_nothing_is_served_without_a_password(tmp_path):
    with pytest.raises(ConfigError, match="password"):
        make_datasette(load_settings(None, {"db": tmp_path / "library.db", "host": "0.0.0.0"}, {}))


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\r=1", "'\r=1"),
        ("-7.1", "-7.1"),
        ("+3", "+3"),
        ("", ""),
        ("House", "House"),
        ("a=b", "a=b"),
    ],
)
def test_cells_that_look_like_formulas_become_text(cell, shown):
    assert harmless(cell) == shown


def test_the_last_row_of_a_csv_needs_no_line_break():
    stream = HarmlessCsv()
    assert stream.push(b"a,=b") + stream.push(b"", last=True) == b"a,'=b\r\n"


def test_a_cell_of_many_lines_costs_no_more_than_its_bytes():
    """Beside a cell without lines, in the same run: looking back from each line took a thousand times as long."""

    def seconds(piece):
        stream, began = HarmlessCsv(), time.perf_counter()
        told = [stream.push(b'a,"'), *(stream.push(piece) for _ in range(20)), stream.push(b'"', last=True)]
        assert b"".join(told) == b'a,"' + 20 * piece + b'"\r\n' if b"\n" in piece else b"x" in told[-1]
        return time.perf_counter() - began

    plain = min(seconds(b"x" * 10_000) for _ in range(3))
    assert min(seconds(b"\n" * 10_000) for _ in range(3)) < 100 * plain


@given(st.lists(st.lists(st.text(), min_size=1, max_size=4), max_size=6), st.integers(1, 7))
def test_a_csv_in_pieces_keeps_its_cells_and_makes_each_harmless(rows, size):
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    text = out.getvalue().encode("utf-8", "replace")
    expected = [[harmless(cell) for cell in row] for row in csv.reader(io.StringIO(text.decode(), newline=""))]
    stream = HarmlessCsv()
    told = b"".join(stream.push(text[n : n + size]) for n in range(0, len(text), size)) + stream.push(b"", last=True)
    assert list(csv.reader(io.StringIO(told.decode(), newline=""))) == expected
