"""The same track twice: confirmed by aligned fingerprints, other edits told apart, and which copy to keep and why."""

import json
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import soxr

from indexer.analysis import fingerprint
from indexer.analysis.fingerprint import Fingerprint, FingerprintMeter, aligned
from indexer.encoders.synthesis import SAMPLE_RATE_HZ, make_track
from indexer.library.duplicates import _merits, groups_of
from indexer.library.readonly import reading
from indexer.library.store import Store
from indexer.library.vectors import projection, same_sound
from indexer.upkeep.demo import Track, write_track
from tests.helpers.contents import contents, rows
from tests.helpers.pages import Pages

SECONDS = 40.0


@pytest.fixture(scope="module")
def sounds():
    """Two tracks of one genre, (n,) mono."""
    return [make_track("house", seed, SECONDS).mean(axis=1) for seed in (0, 3)]


def words(sound, rate_hz=SAMPLE_RATE_HZ):
    meter = FingerprintMeter(rate_hz)
    for start in range(0, len(sound), rate_hz):
        meter.push(sound[start : start + rate_hz].astype(np.float32))
    found = meter.finish()
    return None if found is None else np.frombuffer(found.to_bytes(), "<u2")


# The fingerprint


def test_the_same_music_is_aligned_whatever_its_rate_volume_and_silence_before_it(sounds):
    later = np.concatenate([np.zeros(round(1.3 * SAMPLE_RATE_HZ)), 0.3 * sounds[0]])
    for rate_hz in (22_050, 48_000, 96_000):
        found = aligned(words(soxr.resample(later, SAMPLE_RATE_HZ, rate_hz), rate_hz), words(sounds[0]), 2.5)
        assert found.is_same
        assert found.agreement > 0.8
        assert found.shift_s == pytest.approx(1.3, abs=0.13)


def test_other_music_of_the_same_kind_agrees_by_chance_only(sounds):
    found = aligned(words(sounds[0]), words(sounds[1]), 2.5)
    assert not found.is_same
    assert found.agreement < 0.65


def test_another_edit_of_the_same_length_is_not_the_same(sounds):
    edit = sounds[0].copy()
    middle = slice(15 * SAMPLE_RATE_HZ, 27 * SAMPLE_RATE_HZ)
    edit[middle] = sounds[1][middle]
    found = aligned(words(sounds[0]), words(edit), 2.5)
    assert not found.is_same
    assert found.weakest < fingerprint.SAME_IN_SECTION


def test_a_part_that_begins_elsewhere_in_the_track_is_not_the_same(sounds):
    assert not aligned(words(sounds[0]), words(sounds[0][11 * SAMPLE_RATE_HZ :]), 2.5).is_same


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(20 * SAMPLE_RATE_HZ),
        0.5 * np.sin(np.arange(20 * SAMPLE_RATE_HZ) * 0.06),
        1e-5 * np.random.default_rng(0).standard_normal(20 * SAMPLE_RATE_HZ),
        np.random.default_rng(0).standard_normal(5 * SAMPLE_RATE_HZ),
    ],
    ids=["silence", "a tone", "noise of a converter", "five seconds"],
)
def test_where_nothing_moves_there_is_no_fingerprint(sound):
    assert words(sound) is None


def test_what_lies_above_the_bands_changes_no_word(sounds):
    """Loud hiss above 6 kHz: the sound is thinned to a quarter of its rate, and nothing folds back."""
    spectrum = np.fft.rfft(np.random.default_rng(5).standard_normal(len(sounds[0])))
    spectrum[np.fft.rfftfreq(len(sounds[0]), 1 / SAMPLE_RATE_HZ) < 6_000] = 0
    hiss = np.fft.irfft(spectrum, len(sounds[0]))
    loudness = np.std(sounds[0]) / np.std(hiss)
    changed = np.unpackbits((words(sounds[0]) ^ words(sounds[0] + loudness * hiss)).view(np.uint8))
    assert changed.mean() < 0.01


def test_a_mix_of_any_length_has_a_fingerprint_of_ten_minutes(monkeypatch):
    monkeypatch.setattr(fingerprint, "MOST_S", 20.0)
    meter = FingerprintMeter(8_000)
    noise = np.random.default_rng(0).standard_normal((60, 8_000)).astype(np.float32)
    sizes = []
    for second in noise:
        meter.push(second)
        sizes.append(len(meter._levels))
    assert sizes[-1] == sizes[20]
    assert 60 < len(meter.finish().words) <= 80


def test_fingerprints_of_silence_and_of_different_lengths_are_compared_without_harm():
    few = np.arange(1, 40, dtype="<u2")
    for one, other in ((few[:0], few), (np.zeros(99, "<u2"), few), (few[:20], few)):
        assert aligned(one, other, 2.5) is None
        assert aligned(other, one, 2.5) is None
    assert aligned(few, np.concatenate([few, few]), 2.5).agreement == 1.0


# Which recordings are the same


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "library.db") as store:
        store.put_encoder("e", name="e", width=8, unit_s=6.0)
        with store.transaction():  # what the others are compared against, so that the mean lies elsewhere
            for n in range(20):
                add(store, f"far {n}", np.eye(8)[n % 8] * (1 + n), 1000.0 + 10 * n)
        yield store


def add(store, name, vector, length_s, print_=None):
    recording = store.recording(name, codec="mp3", sample_rate_hz=44_100, channels=2, duration_s=length_s)
    store.put_embedding(recording, "e", np.asarray(vector, "<f2").tobytes(), 1)
    if print_ is not None:
        put_print(store, recording, print_)
    return recording


def put_print(store, recording, seed, changed=0.0):
    rng = np.random.default_rng(seed)
    found = rng.integers(1, 1 << 16, 200).astype("<u2")
    noise = np.random.default_rng(recording).random((200, 16)) < changed
    found ^= np.packbits(noise, axis=1).view("<u2")[:, 0]
    columns = {"version": 2, "measured": "{}"}
    store.put_analysis(recording, columns, Fingerprint(tuple(found.tolist())).to_bytes())


def update(store):
    projection.update(store, "e", ["e"])
    same_sound.update(store, "e", ["e"])
    found = {}
    for row in store.connection.execute("SELECT recording_id, first_id, stale FROM same_sound"):
        assert not row["stale"]
        found.setdefault(row["first_id"], set()).add(row["recording_id"])
    return {frozenset(group) for group in found.values() if len(group) > 1}


ALIKE, NEARLY = [9.0] * 8, [9.0, 9, 9, 9, 9, 9, 9, 4]


def test_fingerprints_confirm_what_embedding_and_length_only_suggest(store):
    with store.transaction():
        one = add(store, "one", ALIKE, 200.0, print_=1)
        padded = add(store, "padded", NEARLY, 202.0, print_=1)
        remix = add(store, "remix", ALIKE, 200.0, print_=2)
        longer = add(store, "extended mix", ALIKE, 260.0, print_=1)
    assert update(store) == {frozenset({one, padded})}
    agreements = dict(store.connection.execute("SELECT recording_id, agreement FROM same_sound").fetchall())
    assert (agreements[one], agreements[padded], agreements[remix], agreements[longer]) == (1.0, 1.0, None, None)


def test_a_fingerprint_that_comes_later_settles_what_was_suggested(store):
    with store.transaction():
        one, other, third = (add(store, str(n), ALIKE, 200.0 + n / 4) for n in range(3))
    assert update(store) == {frozenset({one, other, third})}
    with store.transaction():
        put_print(store, one, 1)
        put_print(store, other, 2)
    # Until the next comparison the group is shown as it was.
    assert len(store.connection.execute("SELECT 1 FROM same_sound WHERE first_id = ?", (one,)).fetchall()) == 3
    with store.transaction():
        put_print(store, third, 1, changed=0.05)
    assert update(store) == {frozenset({one, third})}
    assert same_sound.update(store, "e", ["e"]) == 0


def test_of_thousands_alike_each_is_aligned_with_a_few_only(store, monkeypatch):
    monkeypatch.setattr(same_sound, "MOST_ALIGNED", 3)
    counted = []
    monkeypatch.setattr(same_sound, "aligned", lambda *words: counted.append(1) or aligned(*words))
    with store.transaction():
        for n in range(60):
            add(store, f"alike {n}", ALIKE, 200.0, print_=n)
    assert update(store) == set()
    assert 57 * 3 <= len(counted) <= 60 * 3


# Which copy to keep


def change(cli, sql, *values):
    with closing(sqlite3.connect(cli.db)) as conn, conn:
        conn.execute(sql, values)


@pytest.fixture(scope="module")
def template(tmp_path_factory, sounds):
    """A track in FLAC and MP3, another one twice, and a third one."""
    folder = tmp_path_factory.mktemp("twice")
    for seed, genre in enumerate(("house", "ambient", "techno")):
        write_track(Track(folder / f"{seed}.flac", genre, seed, 16.0, f"title {seed}", "artist", labelled=False))
    write_track(Track(folder / "0 again.mp3", "house", 0, 16.0, "title 0", "artist", labelled=False))
    shutil.copy(folder / "1.flac", folder / "1 copy.flac")
    return folder


@pytest.fixture
def folder(template, tmp_path):
    return shutil.copytree(template, tmp_path / "music")


def test_the_copy_to_keep_as_text_json_and_a_page(quick_cli, folder):
    before = contents(folder)
    quick_cli("scan", folder, "--no-tags")
    found = quick_cli.json("duplicates")
    assert (len(found["groups"]), found["files"], found["not_aligned"]) == (2, 2, 0)
    by_name = {group["keep"]["path"].rpartition("/")[2]: group for group in found["groups"]}
    encodings = by_name["0.flac"]
    assert (encodings["how"], encodings["why"]) == ("aligned", ["it is lossless"])
    assert [copy["keep"] for copy in encodings["copies"]] == [True, False]
    assert all(copy["agreement"] > 0.8 for copy in encodings["copies"])
    assert [copy["lossy_suspect"] for copy in encodings["copies"]] == [False, None]
    assert encodings["could_free_bytes"] == len(before["0 again.mp3"])
    copies = next(group for name, group in by_name.items() if name != "0.flac")
    assert (copies["how"], copies["why"]) == ("same audio", ["they are equally good, it came first"])
    shown = quick_cli("duplicates").stdout
    assert "why: it is lossless" in shown
    assert "Nothing was changed" in shown
    pages = Pages(quick_cli.db)
    assert pages.json("/-/duplicates.json") == {"count": 2, "page": 1, "pages": 1, "groups": found["groups"]}
    page = pages.get("/-/duplicates").text
    assert page.count(">keep</b>") == 2
    assert "Keep the first: it is lossless." in page
    assert 'href="/-/duplicates"' in pages.get("/").text
    assert contents(folder) == before


def test_measured_later_in_the_background_and_confirmed_then(quick_cli, folder):
    quick_cli("scan", folder, "--no-tags")
    expected = quick_cli.json("duplicates")
    change(quick_cli, "UPDATE analysis SET version = 1")
    change(quick_cli, "DELETE FROM fingerprints")
    change(quick_cli, "UPDATE same_sound SET agreement = NULL")
    assert quick_cli.json("duplicates")["not_aligned"] == 1
    assert "by embedding and length only" in quick_cli("duplicates").stdout
    assert "listen before you delete" in Pages(quick_cli.db).get("/-/duplicates").text
    summary = quick_cli.json("scan", folder, "--no-tags")
    assert (summary["analysed"] >= 4, summary["embedded"]) == (True, 0)  # of copies perhaps both
    assert quick_cli.json("duplicates") == expected
    measured = [json.loads(row["measured"]) for row in rows(quick_cli, "SELECT measured FROM analysis")]
    assert [one["fingerprint"] for one in measured] == [None] * 4  # it has a table of its own


def copies_of(cli, *paths):
    with reading(cli.db) as conn:
        groups = groups_of(conn)
    return next(group for group in groups if {copy["path"].rpartition("/")[2] for copy in group["copies"]} == {*paths})


PAIR = "0.flac", "0 again.mp3"


def test_each_merit_decides_where_the_weightier_ones_are_equal(quick_cli, folder):
    quick_cli("scan", folder, "--no-tags")
    flac, mp3 = (f"(SELECT id FROM files WHERE path_text LIKE '%/{name}')" for name in PAIR)
    recording = f"(SELECT recording_id FROM files WHERE id = {flac})"

    def kept():
        group = copies_of(quick_cli, *PAIR)
        return group["keep"]["path"].rpartition("/")[2], group["why"], group["beware"]

    change(quick_cli, f"UPDATE tags SET dj_data = 'Serato, Traktor', year = 1999 WHERE file_id = {mp3}")
    name, why, beware = kept()
    assert (name, why) == ("0.flac", ["it is lossless"])
    assert [line.rpartition("/")[0].partition(" is only in")[0] for line in beware] == [
        "data of Serato, Traktor, cues perhaps,",
        "the year",
    ]
    change(quick_cli, f"UPDATE analysis SET lossy_edge = 1, bandwidth_hz = 16000 WHERE recording_id = {recording}")
    change(quick_cli, f"UPDATE files SET size = 320 * 125 * 16 WHERE id = {mp3}")
    assert kept()[:2] == ("0 again.mp3", ["320 kbit/s are more than 112"])
    change(quick_cli, f"UPDATE files SET reason = 'truncated: it ends early' WHERE id = {mp3}")
    assert kept()[:2] == ("0.flac", ["it is whole"])
    change(quick_cli, f"UPDATE files SET reason = NULL, size = 112 * 125 * 16 WHERE id = {mp3}")
    change(quick_cli, f"UPDATE recordings SET sample_rate_hz = 48000 WHERE id = {recording}")
    change(quick_cli, "UPDATE recordings SET sample_rate_hz = 44100 WHERE codec = 'mp3'")
    assert kept()[:2] == ("0.flac", ["48 kHz are more than 44.1"])
    change(quick_cli, "UPDATE recordings SET sample_rate_hz = 44100")
    assert kept()[:2] == ("0 again.mp3", ["it carries data of Serato, Traktor"])
    change(quick_cli, "UPDATE tags SET dj_data = NULL")
    assert kept()[:2] == ("0 again.mp3", ["it has 4 of 5 tags, not 3"])
    change(quick_cli, f"UPDATE files SET size = 64 * 125 * 16 WHERE id = {mp3}")
    assert kept()[:2] == ("0.flac", ["112 kbit/s are more than 64"])
    change(quick_cli, f"UPDATE analysis SET bandwidth_hz = 16100 WHERE recording_id != {recording}")
    assert kept()[:2] == ("0 again.mp3", ["it has 4 of 5 tags, not 3"])  # its spectrum is as wide: it may be the source


def test_a_little_less_than_a_usual_bit_rate_decides_nothing():
    """The rate is the size by the length, so files of one rate differ by a little."""
    copy = {
        "truncated": False, "lossless": False, "lossy_suspect": None, "sample_rate_hz": 44_100, "dj_data": None,
        "tags": 5, "label": None, "size": 1,
    }  # fmt: skip
    for usual in (128, 192, 256, 320):
        merits = [_merits({**copy, "counts_as_kbit_s": usual + off}) for off in (-3, 0, 3)]
        assert merits[0] == merits[1] == merits[2]
    assert _merits({**copy, "counts_as_kbit_s": 320}) > _merits({**copy, "counts_as_kbit_s": 256})


def test_a_library_without_doubles_says_so(quick_cli, folder):
    for name in ("0 again.mp3", "1 copy.flac"):
        (folder / name).unlink()
    quick_cli("scan", folder, "--no-tags")
    assert quick_cli.json("duplicates") == {"groups": [], "files": 0, "could_free_bytes": 0, "not_aligned": 0}
    assert "no sound is in several files" in quick_cli("duplicates").stdout
    assert "No track is in several files" in Pages(quick_cli.db).get("/-/duplicates?page=99").text
