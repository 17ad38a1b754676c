"""What mixes well with a track: the rules with their reasons, `similar --mix`, its JSON and the page's."""

import json
import time

import numpy as np
import pytest

from indexer.analysis.camelot import parse_key
from indexer.analysis.mixing import Mixable, key_reason, reasons, sound_reason, tempo_reason
from indexer.files.audio.identity import Stat
from indexer.library.store import Store
from indexer.library.vectors.mixing import mixable_of
from tests.helpers.pages import Pages
from tests.helpers.vectors import fill


@pytest.mark.parametrize(
    ("to_bpm", "reason"),
    [
        (126.0, "same tempo (126 BPM)"),
        (128.0, "1.6 % faster (126 to 128 BPM)"),
        (126 * 1.06, "6.0 % faster (126 to 133.6 BPM)"),
        (126 * 0.94, "6.0 % slower (126 to 118.4 BPM)"),
        (126 * 1.061, None),
        (126 * 0.939, None),
        (63.0, "half the tempo (126 to 63 BPM)"),
        (64.0, "half the tempo, 1.6 % faster (126 to 64 BPM)"),
        (252.0, "twice the tempo (126 to 252 BPM)"),
        (248.0, "twice the tempo, 1.6 % slower (126 to 248 BPM)"),
        (84.0, None),
        (189.0, None),
    ],
)
def test_a_tempo_within_six_percent_of_it_its_half_or_its_double_mixes(to_bpm, reason):
    assert tempo_reason(126.0, to_bpm) == reason


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("8A", "same key (8A)"),
        ("9A", "a fifth up (8A to 9A)"),
        ("7A", "a fifth down (8A to 7A)"),
        ("8B", "relative major (8A to 8B)"),
        ("9B", None),
        ("10A", None),
    ],
)
def test_the_same_and_a_neighbouring_key_mix(to, reason):
    assert key_reason(parse_key("8A"), parse_key(to)) == reason


def test_how_alike_is_said_in_words():
    assert [sound_reason(s) for s in (0.8, 0.5, 0.3, -0.1)] == [
        "very much alike (0.80)", "alike (0.50)", "a little alike (0.30)", "not much alike (-0.10)",
    ]  # fmt: skip


def known(tempo_bpm=126.0, key="8A", *, is_tag=False):
    return Mixable(tempo_bpm, is_tag, parse_key(key), is_tag, measured=not is_tag)


def test_each_reason_is_given_and_says_where_only_a_tag_is_known():
    assert reasons(known(), known(128.0, "9A"), 0.6) == {
        "sound": "alike (0.60)",
        "key": "a fifth up (8A to 9A)",
        "tempo": "1.6 % faster (126 to 128 BPM)",
    }
    assert reasons(known(), known(is_tag=True), 0.6) == {
        "sound": "alike (0.60)",
        "key": "same key (8A), by its tags",
        "tempo": "same tempo (126 BPM), by its tags",
    }


def test_what_the_track_lacks_is_not_compared_and_what_the_other_lacks_does_not_mix():
    assert set(reasons(known(key=None), known(key=None), 0.6)) == {"sound", "tempo"}
    assert set(reasons(known(None), known(None), 0.6)) == {"sound", "key"}
    assert reasons(known(), known(key=None), 0.6) is None
    assert reasons(known(), known(None), 0.6) is None


def measured(store, recording, tempo_bpm, key):
    columns = {"version": 1, "measured": "{}", "tempo_bpm": tempo_bpm, "key": key, "key_name": None}
    store.put_analysis(recording, columns)


@pytest.fixture
def library(bare_cli):
    """Eight recordings, each a little less like the first; what of each is known stands beside it."""
    angles = np.linspace(0, 2, 8)
    fill(bare_cli.db, np.stack([np.cos(angles), np.sin(angles), angles * 0 + 1], axis=1).astype(np.float16))
    with Store(bare_cli.db) as store, store.transaction():
        measured(store, 1, 126.0, "8A")
        measured(store, 2, 128.0, "2A")  # another key
        measured(store, 3, 128.0, "9A")
        measured(store, 4, 140.0, "8A")  # too fast
        measured(store, 5, None, "8A")  # no beat; its tag below
        measured(store, 6, 63.0, "8B")
        measured(store, 7, 126.0, None)  # no tonality
        store._run("UPDATE tags SET bpm = 125, musical_key = 'C' WHERE file_id = 5")
        store._run("UPDATE tags SET bpm = 0, musical_key = 'none' WHERE file_id = 8")
    return bare_cli


def mix(cli, number, *options):
    return json.loads(cli("similar", f"/m/{number - 1}.mp3", "--mix", "--json", *options).stdout)


def test_similar_mix_lists_what_suits_by_key_and_tempo_the_most_alike_first(library):
    found = mix(library, 1)
    assert [track["path"] for track in found["tracks"]] == ["/m/2.mp3", "/m/4.mp3", "/m/5.mp3"]
    assert [(track["tempo_bpm"], track["key"], track["key_name"]) for track in found["tracks"]] == [
        (128.0, "9A", "Em"), (125.0, "8B", "C"), (63.0, "8B", "C"),
    ]  # fmt: skip
    assert [set(track["reasons"]) for track in found["tracks"]] == [{"sound", "key", "tempo"}] * 3
    assert found["tracks"][1]["reasons"]["tempo"] == "0.8 % slower (126 to 125 BPM), by its tags"
    assert found["tracks"][2]["reasons"]["tempo"] == "half the tempo (126 to 63 BPM)"
    assert found["mix"] == {"tempo_bpm": 126.0, "key": "8A", "key_name": "Am", "missing": [], "unknown": 2}
    assert [track["path"] for track in mix(library, 1, "-n", "1")["tracks"]] == ["/m/2.mp3"]


def test_the_tags_word_comes_first_unless_it_is_ours_or_names_nothing(library):
    with Store(library.db) as store, store.transaction():
        store._run("UPDATE tags SET bpm = 150, musical_key = 'Gm' WHERE file_id = 1")  # not what was measured
        store._run("UPDATE tags SET bpm = 140, musical_key = 'a' WHERE file_id = 4")
        ours = '{"added": {"BPM": "60", "INITIALKEY": "Fm"}}'
        store._run("UPDATE tags SET bpm = 60, musical_key = 'Fm', indexer_added = ? WHERE file_id = 3", (ours,))
    of = {number: mix(library, number)["mix"] for number in (1, 3, 4)}
    assert {number: (one["tempo_bpm"], one["key"]) for number, one in of.items()} == {
        1: (150.0, "6A"), 3: (128.0, "9A"), 4: (140.0, "8A"),
    }  # fmt: skip


def test_a_key_in_the_tags_of_one_copy_is_known_whatever_stands_in_another(tmp_path):
    with Store(tmp_path / "library.db") as store:
        recording = store.recording("0" * 64, codec="mp3", sample_rate_hz=1, channels=1, duration_s=1.0)
        for n, text in enumerate((None, "8A", "unknown")):
            stat = Stat(1, n, 1, 1)
            file = store.put_file(b"/m/%d" % n, stat, root_id=None, state="ready", recording_id=recording)
            store.put_tags(file, {"musical_key": text})
        assert mixable_of(store.connection, [recording])[recording].key == parse_key("Am")


def test_similar_without_mix_is_as_before(library):
    found = json.loads(library("similar", "/m/0.mp3", "--json").stdout)
    assert len(found["tracks"]) == 7
    assert "mix" not in found
    assert "reasons" not in found["tracks"][0]


def test_similar_mix_says_each_reason_and_what_is_passed_over(library):
    text = library("similar", "/m/0.mp3", "--mix").stdout
    assert "a fifth up (8A to 9A); 1.6 % faster (126 to 128 BPM)" in text
    assert "3 tracks mixing well with /m/0.mp3 (126.0 BPM, 8A (Am))" in text
    assert "2 tracks passed over: their tempo or key is not known" in text


def test_a_track_without_tonality_is_mixed_by_its_tempo_and_that_is_said(library):
    found = mix(library, 7)
    assert {track["path"] for track in found["tracks"]} == {f"/m/{n}.mp3" for n in (0, 1, 2, 4, 5)}
    assert found["mix"]["missing"] == ["no key: no tonality was found in the sound, and the tags name none"]


def test_a_track_of_which_nothing_is_known_mixes_with_nothing_and_that_is_said(library):
    found = mix(library, 8)
    assert found["tracks"] == []
    assert found["mix"]["missing"] == [
        f"no {name}: not measured yet, the next `indexer scan` does it, and the tags name none"
        for name in ("tempo", "key")
    ]


def test_the_page_asks_for_what_mixes_well(library):
    pages = Pages(library.db)
    end = time.monotonic() + 20
    while (answer := pages.get("/-/similar/1.json?mix=1")).status_code == 202:
        assert time.monotonic() < end
        time.sleep(0.02)
    found = answer.json()
    assert [track["id"] for track in found["tracks"]] == [3, 5, 6]
    assert found["tracks"][0]["reasons"]["key"] == "a fifth up (8A to 9A)"
    assert found["tracks"][1]["tempo_bpm"] == 125.0
    assert found["mix"]["unknown"] == 2
    lines = pages.get("/-/playlist.m3u8?similar=1&mix=1").content.split(b"\n")
    assert [line for line in lines if line.startswith(b"/")] == [b"/m/2.mp3", b"/m/4.mp3", b"/m/5.mp3"]
    page = pages.get("/library/tracks/1").text
    assert "/-/similar/1.json?mix=1" in page
    assert "/-/playlist.m3u8?similar=1&amp;mix=1" in page
