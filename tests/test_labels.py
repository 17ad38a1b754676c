"""Which label a recording gets, from which source, and what is counted on the way."""

import pytest

from indexer.errors import ConfigError
from indexer.learn.labels import Aliases, artist_group, gather, read_csv
from indexer.library.facts import FileFacts
from indexer.wording import key

DNB = "drum and bass"


def facts(recording=1, path=b"/m/a/x.mp3", *, root=b"/m", genre=None, artist=None, album_artist=None, sha=None):
    return FileFacts(recording, sha or f"{recording:064x}", path, root, genre, artist, album_artist)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        *((spelling, DNB) for spelling in (
            "Drum & Bass", "drum and bass", "DnB", "DNB", "Drum'n'Bass", "Drum 'n' Bass", "drum n bass",
            "Drum\u2019n\u2019Bass", "D&B", "D & B", "d'n'b", "Drum-n-Bass", "drum_and_bass", "DRUM+BASS", "Drum Bass",
            "Drum  &  Bass ")),
        ("House", "house"), ("House Music", "house"), ("TECHNO", "techno"), ("Techno (Peak Time / Driving)", "techno"),
        ("Trance [Main Floor]", "trance"), ("\uff34echno", "techno"), ("Ambient", "ambient"),
        *((unknown, None) for unknown in (
            "Deep House", "Tech House", "Jungle", "Psytrance", "Electronic", "", "\u2603")),
    ],
)  # fmt: skip
def test_built_in_spellings_and_nothing_more(text, label):
    assert Aliases().label(text) == label


def test_a_text_that_no_head_can_carry_becomes_no_label():
    said = {1: "dub", 2: "du\x1b[2Jb", 3: "x" * 101, 4: "go\udcffa"}
    labels = gather([facts(n, b"/m/a/%d.mp3" % n) for n in said], Aliases(), corrections=said)
    assert labels.label_of == {1: "dub"}


def test_the_users_table_comes_first():
    aliases = Aliases(
        {
            "Deep House": "house",
            "liquid": "DnB",
            "Psy-Trance": "Psytrance",
            "goa": "psytrance",
            "Techno": "",
            "trance": "euro dance",
        }
    )
    assert aliases.label("deep-house") == "house"
    assert aliases.label("Liquid") == DNB  # a target that is itself a spelling
    assert (aliases.label("psytrance"), aliases.label("Goa")) == ("Psytrance", "Psytrance")
    assert aliases.label("techno") == ""  # ignored
    assert (aliases.label("Trance"), aliases.label("Euro Dance")) == ("euro dance", "euro dance")


@pytest.mark.parametrize(
    ("tag", "labels", "unknown"),
    [
        ("Techno", {"techno"}, ()),
        ("Electronic; Techno", {"techno"}, ("Electronic",)),
        ("Techno (Raw / Deep); House", {"techno", "house"}, ()),
        ("Jungle/Drum'n'Bass", {DNB}, ()),
        ("House, Techno", {"house", "techno"}, ()),
        ("Pop|Rock", set(), ("Pop|Rock",)),
        ("; ;", set(), ()),
    ],
)
def test_a_genre_field_with_several_values(tag, labels, unknown):
    assert Aliases().of_tag(tag) == (frozenset(labels), unknown)


def test_sources_in_their_order_of_trust():
    file = facts(path=b"/m/House/x.mp3", genre="Techno", sha="ab")
    rows = _rows(file.path, "trance")
    everything = {"corrections": {1: "ambient"}, "rows": rows}
    order = ["corrections", "csv", "tags", "folders"]
    expected = ["ambient", "trance", "techno", "house"]
    for n, label in enumerate(expected):
        found = gather([file], Aliases(), sources=order[n:], **everything)
        assert (found.label_of, found.source_of) == ({1: label}, {1: order[n]})
    assert gather([file], Aliases(), sources=order, **everything).contradictions == dict.fromkeys(
        [f"{a} against {b}" for n, a in enumerate(order) for b in order[n + 1 :]], 1
    )
    assert gather([facts(path=b"/m/House/x.mp3", genre="house")], Aliases()).contradictions == {}


def _rows(path, genre):
    from indexer.learn.labels import CsvRow

    return [CsvRow(path, None, genre)]


def test_the_majority_of_a_recordings_files_decides_and_a_tie_is_no_label():
    files = [
        facts(path=b"/m/1", genre="House"),
        facts(path=b"/m/2", genre="house music"),
        facts(path=b"/m/3", genre="Techno"),
        facts(2, b"/m/4", genre="House"),
        facts(2, b"/m/5", genre="Techno"),
        facts(3, b"/m/6", genre="House; Techno"),
        facts(4, b"/m/7"),
    ]
    found = gather(files, Aliases())
    assert found.label_of == {1: "house"}
    assert found.contradictions == {"tags": 3}


def test_a_tie_leaves_the_word_to_the_next_source():
    found = gather([facts(path=b"/m/Trance/1", genre="House; Techno")], Aliases())
    assert (found.label_of, found.source_of) == ({1: "trance"}, {1: "folders"})


def test_the_folder_nearest_to_the_file_decides():
    assert gather([facts(path=b"/m/House/x/Techno/album/1.mp3")], Aliases()).label_of == {1: "techno"}
    assert gather([facts(path=b"/home/house/1.mp3", root=b"/home/house")], Aliases()).label_of == {
        1: "house"
    }  # the root's own name
    assert (
        gather([facts(path=b"/house/me/1.mp3", root=b"/house/me")], Aliases()).label_of == {}
    )  # folders above the root are no labels of the user's
    assert gather([facts(path=b"/house/techno/1.mp3", root=None)], Aliases()).label_of == {1: "techno"}
    assert gather([facts(path=b"/house/x/1.mp3", root=None)], Aliases()).label_of == {}
    assert gather([facts(path=b"/m/Drum & Bass/\xff\xfe.mp3")], Aliases()).label_of == {1: DNB}


def test_values_that_mean_nothing_are_counted():
    files = [
        facts(1, b"/m/Psy/a/1", genre="Psytrance"),
        facts(2, b"/m/Psy/b/2", genre="Psytrance"),
        facts(3, b"/m/Goa/3", genre="Rock"),
        facts(4, b"/m/4", genre="Electronic; House"),
    ]
    assert gather(files, Aliases()).unmapped == {"tags": {"Psytrance": 2, "Rock": 1}, "folders": {"Psy": 2, "Goa": 1}}
    found = gather(files, Aliases({"psy": "psytrance", "Rock": ""}))
    assert found.label_of == {1: "psytrance", 2: "psytrance", 4: "house"}
    assert found.unmapped == {"folders": {"Goa": 1}}


def test_any_label_may_be_said_outright_and_then_counts_everywhere():
    files = [facts(n, b"/m/%d" % n, genre="UK Garage") for n in range(4)]
    found = gather(files, Aliases(), corrections={0: "UK garage", 1: "uk-garage", 2: "UK garage"})
    assert set(found.label_of.values()) == {"UK garage"}
    assert found.source_of[3] == "tags"
    assert (
        gather(files, Aliases(), sources=("tags",), corrections={0: "UK garage"}).label_of == {}
    )  # not a chosen source


def test_artists():
    assert artist_group(facts(artist="Goldie", album_artist=None)) == artist_group(
        facts(artist="x", album_artist=" GOLDIE")
    )
    assert artist_group(facts(artist="Goldie", album_artist="Various Artists")) == artist_group(facts(artist="Goldie"))
    assert artist_group(facts(artist=None)) == "folder /m/a"
    assert artist_group(facts(artist="V.A.")) == "folder /m/a"
    assert artist_group(facts(artist="folder /m/a")) != "folder /m/a"
    assert key("Goldie") != key("Grooverider")


def test_csv(tmp_path):
    (tmp_path / "music").mkdir()
    file = tmp_path / "labels.csv"
    file.write_bytes(
        b"\xef\xbb\xbfGenre;Path;audio_sha256\r\nHouse;music/a.mp3;\r\nTechno;;AB\r\n;x;\r\nTrance;;\r\n"
        b'"Drum; Bass";/m/\xff.mp3;\r\nx;gone.mp3;\r\n'
        b'x;a\0b;\r\nx;~nobody-of-that-name/a;\r\nx;"two\r\nlines.mp3";\r\n'
    )
    rows = read_csv(file)
    assert len(rows) == 7
    assert rows[-1].path == bytes(tmp_path) + b"/two\r\nlines.mp3"
    files = [facts(1, bytes(tmp_path) + b"/music/a.mp3"), facts(2, sha="ab"), facts(3, b"/m/\xff.mp3")]
    found = gather(files, Aliases({"Drum; Bass": "dnb"}), sources=("csv",), rows=rows)
    assert (found.label_of, found.unknown_rows) == ({1: "house", 2: "techno", 3: DNB}, 4)


def test_a_csv_that_contradicts_itself_is_counted(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("audio_sha256,genre\nab,house\nab,techno\ncd,house\ncd,house\ncd,trance\n")
    found = gather([facts(1, sha="ab"), facts(2, sha="cd")], Aliases(), sources=("csv",), rows=read_csv(file))
    assert (found.label_of, found.contradictions) == ({2: "house"}, {"csv": 2})


@pytest.mark.parametrize(
    "content", [b"", b"path,label\na,b\n", b"genre\nhouse\n", b"\0\0\0", b"\x89PNG\r\n\x1a\n" * 50]
)
def test_a_csv_that_is_none_is_refused_in_one_line(tmp_path, content):
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"columns path|not a CSV") as caught:
        read_csv(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="No such file"):
        read_csv(tmp_path / "none.csv")
