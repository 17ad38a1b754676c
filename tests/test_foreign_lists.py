"""Playlists of other programs as labels: what they name is found or counted, and hostile ones end in one line."""

import json
import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from indexer.errors import ConfigError, ReadError
from indexer.exchange import read_lists
from indexer.exchange.dj_paths import PathMap
from indexer.exchange.match import match
from indexer.files.children.limits import Limits
from indexer.files.children.worker import Worker
from indexer.files.playlists import crates, foreign_lists, formats, xml_lists
from indexer.files.playlists.foreign_lists import Budget, Entry, ForeignList, all_left
from indexer.learn.labels import Aliases, gather
from indexer.library.facts import FileFacts
from tests.helpers.limits import LIMITS
from tests.helpers.peak import begin_peak, peak_bytes

REKORDBOX = """<?xml version="1.0" encoding="UTF-8"?>
<DJ_PLAYLISTS Version="1.0.0"><PRODUCT Name="rekordbox" Version="6.8.5" Company="AlphaTheta"/>
<COLLECTION Entries="2">
<TRACK TrackID="7" Name="x" Size="1000" TotalTime="200" Location="file://localhost/D:/My%20Music/caf%C3%A9%20%26%20%231.mp3">
<TEMPO Inizio="0.1" Bpm="128.00" Metro="4/4" Battito="1"/></TRACK>
<TRACK TrackID="8" Location="file://localhost/Users/me/b.mp3"/>
</COLLECTION>
<PLAYLISTS><NODE Type="0" Name="ROOT" Count="2">
<NODE Type="0" Name="Techno" Count="1"><NODE Name="gig 1" Type="1" KeyType="0" Entries="3">
<TRACK Key="7"/><TRACK Key="8"/><TRACK Key="99"/></NODE></NODE>
<NODE Name="House" Type="1" KeyType="1" Entries="1"><TRACK Key="file://localhost/Users/me/b.mp3"/></NODE>
</NODE></PLAYLISTS></DJ_PLAYLISTS>
"""
NML = """<?xml version="1.0" encoding="UTF-8" standalone="no" ?>
<NML VERSION="19"><HEAD COMPANY="www.native-instruments.com" PROGRAM="Traktor"></HEAD>
<COLLECTION ENTRIES="2"><ENTRY TITLE="a" ARTIST="b"><LOCATION DIR="/:Users/:me/:Müsic/:" FILE="a.mp3"
 VOLUME="Macintosh HD" VOLUMEID="x"></LOCATION><INFO BITRATE="320000" PLAYTIME="200" PLAYTIME_FLOAT="200.4"
 FILESIZE="976"></INFO><CUE_V2 NAME="n.n."></CUE_V2></ENTRY>
<ENTRY TITLE="c"><LOCATION DIR="/:Music/:" FILE="c.mp3" VOLUME="C:" VOLUMEID="y"></LOCATION></ENTRY></COLLECTION>
<SETS ENTRIES="0"></SETS><PLAYLISTS><NODE TYPE="FOLDER" NAME="$ROOT"><SUBNODES COUNT="1">
<NODE TYPE="PLAYLIST" NAME="Trance"><PLAYLIST ENTRIES="2" TYPE="LIST" UUID="u">
<ENTRY><PRIMARYKEY TYPE="TRACK" KEY="Macintosh HD/:Users/:me/:Müsic/:a.mp3"></PRIMARYKEY></ENTRY>
<ENTRY><PRIMARYKEY TYPE="TRACK" KEY="C:/:Music/:c.mp3"></PRIMARYKEY></ENTRY>
</PLAYLIST></NODE></SUBNODES></NODE></PLAYLISTS></NML>
"""


def crate(*paths: str, version: str = crates.VERSION) -> bytes:
    def record(name: bytes, value: bytes) -> bytes:
        return name + len(value).to_bytes(4, "big") + value

    def text(name: bytes, value: str) -> bytes:
        return record(name, value.encode("utf-16-be"))

    column = record(b"ovct", text(b"tvcn", "song") + text(b"tvcw", "0"))
    return text(b"vrsn", version) + column + b"".join(record(b"otrk", text(b"ptrk", path)) for path in paths)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture(scope="module")
def worker():
    """One reader process for all these tests: no file may end it."""
    worker = Worker(LIMITS, follows_links=True)
    yield worker
    worker.close()


@pytest.fixture
def read(worker):
    """{names of a list: its entries}, read as `train` reads playlists."""

    def read(*paths: Path) -> dict[tuple[str, ...], list[Entry]]:
        return {one.names: list(one.entries) for one in read_lists.read(paths, worker).lists}

    return read


def parse(path: Path) -> list[ForeignList]:
    """The lists in a file, parsed in this process."""
    with path.open("rb") as file:
        return formats.parse(file, path, Budget(all_left()))


def file(recording: int, path: str | bytes, *, duration_s: float | None = 200.4, size: int = 1000) -> FileFacts:
    return FileFacts(recording, f"{recording:064x}", os.fsencode(path), None, None, None, None, size, duration_s)


# ---- formats


def test_rekordbox_xml(read, tmp_path):
    b = Entry((b"/Users/me/b.mp3",))
    assert read(write(tmp_path / "collection.xml", REKORDBOX)) == {
        ("Techno", "gig 1"): [Entry(("D:/My Music/café & #1.mp3".encode(),), 200.0, 1000), b],
        ("House",): [b],
    }


def test_nml(read, tmp_path):
    assert read(write(tmp_path / "collection.nml", NML)) == {
        ("Trance",): [
            Entry(("/Volumes/Macintosh HD/Users/me/Müsic/a.mp3".encode(), "/Users/me/Müsic/a.mp3".encode()), 200.4,
                  976 * 1024, 1024),
            Entry((b"C:/Music/c.mp3",), size_unit=1024),
        ]
    }  # fmt: skip


def test_crates(read, tmp_path):
    folder = tmp_path / "usb" / "_Serato_" / "Subcrates"
    write(folder / "Techno%%Peak time.crate", crate("Music/é.mp3"))
    root = os.fsencode(tmp_path / "usb")
    entry = Entry((root + "/Music/é.mp3".encode(), "/Music/é.mp3".encode()), rooted="Music/é.mp3".encode())
    assert read(folder / "Techno%%Peak time.crate") == {("Techno", "Peak time"): [entry]}
    assert read(tmp_path / "usb") == {("usb", "Techno", "Peak time"): [entry]}


def test_what_we_write_is_read_back(scanned, worker, tmp_path):
    scanned("export", "--serato", tmp_path / "crates", "--rekordbox", tmp_path / "out.xml", "--m3u", tmp_path / "lists")
    for path in ("crates", "lists", "out.xml"):
        found = read_lists.read([tmp_path / path], worker)
        assert sum(len(one.entries) for one in found.lists) == 6, path
        assert found.problems == []


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (b"/m/a.mp3", b"/m/a.mp3"),
        (b"sub/../a.mp3", b"HERE/a.mp3"),
        (b"sub\\a.mp3", b"HERE/sub/a.mp3"),
        (b"D:\\Music\\a b.mp3", b"D:/Music/a b.mp3"),
        (b"file:///m/a%20b.mp3", b"/m/a b.mp3"),
        (b"file://localhost/D:/a%23.mp3", b"D:/a#.mp3"),
        (b"caf\xe9.mp3", "HERE/café.mp3".encode()),
        (b"caf\xe9.mp3", b"HERE/caf\xe9.mp3"),
    ],
)
def test_lines_of_m3u(read, tmp_path, line, place):
    list_file = write(tmp_path / "House.m3u", b"\xef\xbb\xbf#EXTM3U\r\n#EXTINF:12,x\r\n" + line + b"\r\n\r\nb.mp3\r")
    (found,) = read(list_file).values()
    assert place.replace(b"HERE", os.fsencode(tmp_path)) in found[0].paths
    assert [entry.duration_s for entry in found] == [12.0, None]


def test_folders_name_the_lists_in_them(worker, tmp_path):
    write(tmp_path / "Techno" / "2024" / "gig.m3u8", "/m/a.mp3\n")
    write(tmp_path / "Techno" / "notes.txt", "no list")
    write(tmp_path / "Techno" / "iTunes.xml", '<?xml version="1.0"?><!DOCTYPE plist SYSTEM "x"><plist/>')
    looked: list[Path | None] = []
    found = read_lists.read([tmp_path / "Techno"], worker, looked.append)
    assert [one.names for one in found.lists] == [("Techno", "2024", "gig")]
    (problem,) = found.problems
    assert "iTunes.xml: has a document type" in problem
    seen = [str(path.relative_to(tmp_path / "Techno")) for path in dict.fromkeys(looked) if path]
    assert seen == [".", "iTunes.xml", "2024", "2024/gig.m3u8"]


# ---- hostile input

TENFOLD = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghz", strict=True))
BOMB = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">{TENFOLD}]><DJ_PLAYLISTS Name="&z;"/>'
OUTSIDE = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><DJ_PLAYLISTS>&e;</DJ_PLAYLISTS>'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.xml", BOMB, "document type"),
        ("a.xml", OUTSIDE, "document type"),
        ("a.xml", '<!DOCTYPE x SYSTEM "http://example.org/x.dtd"><DJ_PLAYLISTS/>', "document type"),
        ("a.nml", OUTSIDE, "document type"),
        ("a.xml", REKORDBOX[:700], "damaged"),
        ("a.xml", "", "damaged"),
        ("a.xml", b"\x00\xff" * 100, "damaged"),
        ("a.xml", '<?xml version="1.0" encoding="klingon"?><DJ_PLAYLISTS/>', "damaged"),
        ("a.xml", "<DJ_PLAYLISTS>&unknown;</DJ_PLAYLISTS>", "damaged"),
        ("a.xml", "<plist/>", "neither rekordbox XML nor NML (its root is plist)"),
        ("a.xml", "<DJ_PLAYLISTS>" + "<NODE>" * 200, "more than 64 elements within each other"),
        ("a.xml", "<DJ_PLAYLISTS " + 'x="' + "y" * 3_000_000, "tag without an end"),
        ("a.nml", NML.replace('VERSION="19"', 'VERSION="99"'), "NML of the version '99'"),
        ("a.nml", "<NML/>", "NML of the version ''"),
        ("a.crate", b"", "is no Serato crate"),
        ("a.crate", b"x" * 40, "longer than the file"),
        ("a.crate", crate("a.mp3")[:-3], "longer than the file"),
        ("a.crate", crate("a.mp3") + b"otr", "has no end"),
        ("a.crate", crate("a", version="2.0/Serato ScratchLive Crate"), "version '2.0/Serato ScratchLive Crate'"),
        ("a.crate", crate("a", version="2.0/Serato Scratch LIVE Database"), "not known here"),
        ("a.crate", crate() + b"otrk\0\0\0\x0bptrk\0\0\0\3abc", "no text"),
        ("a.m3u8", b"RIFF\0\0\0\0", "is no playlist"),
        ("a.txt", "x", "is no playlist that is known here"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_ends_in_one_line(worker, tmp_path, name, content, said):
    path = write(tmp_path / name, content)
    with pytest.raises(ConfigError) as caught:
        read_lists.read([path], worker)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_not_opened(worker, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.m3u8")
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("pipe.m3u8", "is neither a file nor a folder"),
        ("none.xml", "no such file or folder"),
        ("none", "no such file or folder"),
        ("empty", "holds no playlist that is known here"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_lists.read([tmp_path / name], worker)
    monkeypatch.setattr(read_lists, "SHOWN_PROBLEMS", 1)
    write(tmp_path / "bad.xml", "")
    found = read_lists.read([tmp_path], worker)
    assert (found.files, found.unread, len(found.problems)) == (0, 2, 1)


@pytest.mark.parametrize("name", ["a.xml", "a.nml", "a.m3u8", "a.crate"])
@pytest.mark.parametrize(
    ("bound", "said"),
    [("MAX_ENTRIES", "tracks"), ("MAX_TEXTS", "bytes of paths and names"), ("MAX_LISTS", "playlists")],
)
def test_there_are_bounds_for_all_files_together(read, tmp_path, monkeypatch, name, bound, said):
    content = {"a.xml": REKORDBOX, "a.nml": NML, "a.m3u8": "/a\n/b\n", "a.crate": crate("a", "b")}[name]
    path = write(tmp_path / name, content)
    assert read(path)
    monkeypatch.setattr(foreign_lists, bound, 1)  # the reader is told what is left
    with pytest.raises(ConfigError, match=f"more than .* {said}"):
        read(path, path)


@pytest.mark.parametrize(
    "inside",
    [
        f'<COLLECTION><TRACK TrackID="{"k" * 1000}"/></COLLECTION>',
        f'<NODE Name="root"><NODE Name="{"n" * 150}">' + '<NODE Name="a" Type="1"/>' * 10 + "</NODE></NODE>",
    ],
)
def test_keys_and_names_count_as_paths_do(tmp_path, monkeypatch, inside):
    path = write(tmp_path / "a.xml", f"<DJ_PLAYLISTS>{inside}</DJ_PLAYLISTS>")
    parse(path)
    monkeypatch.setattr(foreign_lists, "MAX_TEXTS", 900)
    with pytest.raises(ReadError, match="more than 900 bytes of paths and names"):
        parse(path)


def test_there_are_bounds_for_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign_lists, "MAX_FILE_BYTES", 1)
    monkeypatch.setattr(xml_lists, "MAX_XML_BYTES", 1)
    for name in ("a.xml", "a.m3u8", "a.crate"):
        with pytest.raises(ReadError, match="larger than"):
            parse(write(tmp_path / name, REKORDBOX))


def test_a_long_collection_takes_little_memory(tmp_path):
    track = (
        '<TRACK TrackID="{}" Name="' + "x" * 500 + '" Location="file://localhost/m/{}.mp3"><TEMPO Bpm="1"/></TRACK>\n'
    )
    tracks = "".join(track.format(n, n) for n in range(20_000))
    path = write(tmp_path / "a.xml", f"<DJ_PLAYLISTS><COLLECTION>{tracks}</COLLECTION></DJ_PLAYLISTS>")
    del tracks
    begin_peak()
    before = peak_bytes()
    assert parse(path) == []
    assert peak_bytes() - before < path.stat().st_size


def test_a_list_comes_in_messages_of_bounded_size():
    short = [Entry((b"/m/%d.mp3" % n, b"/\xff\xe9"), n + 0.5, n, 1024, b"m/\xff") for n in range(2500)]
    long = [Entry((b"/" + b"x" * 8000,))] * 100
    for entries, parts in ((short, 3), (long, 4), ([], 1)):
        one = ForeignList(("Techno", "gig"), entries)
        told = list(foreign_lists.messages(one))
        assert len(told) == parts
        assert foreign_lists.from_messages(iter(json.loads(json.dumps(told)) * 2)) == [one, one]


# ---- the reader process


def test_what_takes_too_much_costs_one_line_and_the_next_file_is_read(tmp_path):
    slow = write(tmp_path / "a.xml", REKORDBOX)
    large = write(tmp_path / "b.m3u8", b"#" * 4_000_000)
    nothing_left = 1 << 26  # bytes: the libraries alone take more
    with closing(Worker(Limits(0.0, 0.0), memory_limit_bytes=nothing_left, follows_links=True)) as small:
        for path, said in ((large, "more memory"), (slow, "more computing than the setting max_read_cpu_s allows")):
            with pytest.raises(ConfigError, match=said) as caught:
                read_lists.read([path], small)
            assert str(caught.value).startswith(
                f"{path}: reading it takes " if path == slow else f"{path}: reading it "
            )
        assert read_lists.read([tmp_path], small).unread == 2


# ---- matching


def test_paths_come_first_then_names(tmp_path):
    files = [
        file(1, "/mnt/music/a.mp3"),
        file(2, "/mnt/music/x/01.mp3", duration_s=100.0, size=1),
        file(3, "/mnt/music/y/01.mp3", duration_s=200.0, size=2),
        file(4, "/mnt/music/z/01.mp3", duration_s=200.4, size=3),
        file(5, "/mnt/music/CAFÉ.mp3"),
        file(6, "/mnt/music/no length.mp3", duration_s=None, size=77),
    ]
    for entry, recording, how in (
        (Entry((b"D:/Music/a.mp3",)), 1, "by_path"),
        (Entry((b"/mnt/music/a.mp3",)), 1, "by_path"),
        (Entry((b"/nowhere",), rooted=b"Music/a.mp3"), 1, "by_path"),
        (Entry((b"/else/01.mp3",), 100.9), 2, "by_name"),
        (Entry((b"/else/01.mp3",), 200.0, 3), 4, "by_name"),
        (Entry((b"/else/01.mp3",), 200.0, 9), None, "ambiguous"),
        (Entry((b"/else/Y/01.mp3",), 200.0, 9), 3, "by_name"),
        (Entry((b"/else/y/01.mp3",)), 3, "by_name"),
        (Entry((b"/else/01.mp3",)), None, "unmatched"),
        (Entry((b"/else/01.mp3",), 300.0), None, "unmatched"),
        (Entry((b"/else/01.mp3",), None, 2), 3, "by_name"),
        (Entry(("/else/cafe\u0301.mp3".encode(),), 200.0), 5, "by_name"),
        (Entry((b"/else/no length.mp3",), None, 1024 * 0 + 77, 1024), 6, "by_name"),
        (Entry((b"",)), None, "unmatched"),
    ):
        found = match([ForeignList(("House",), [entry])], files, PathMap({"/mnt/music": "D:\\Music"}))
        assert (getattr(found, how), [one for one, _ in found.members]) == (1, [recording] if recording else []), entry


def test_what_does_not_match_is_counted_and_shown():
    files = [file(1, "/m/a.mp3"), file(2, "/m/b.mp3")]
    lists = [
        ForeignList(("House",), [Entry((b"/m/a.mp3",))] * 3 + [Entry((b"/elsewhere/\xff.mp3",))] * 2),
        ForeignList(("Techno",), [Entry((b"/m/a.mp3",)), Entry((b"/m/b.mp3",))]),
    ]
    found = match(lists, files, PathMap({"/nothing": "E:"}))
    assert found.members == [(1, ("House",)), (1, ("Techno",)), (2, ("Techno",))]
    assert found.to_json() == {
        "lists": 2, "entries": 7, "by_path": 5, "by_name": 0, "ambiguous": 0, "unmatched": 2,
        "examples": ["/elsewhere/\\xff.mp3"], "unused_maps": ["/nothing=E:"],
    }  # fmt: skip


def test_of_many_files_of_one_name_few_are_compared(monkeypatch):
    compared = []
    monkeypatch.setattr("indexer.exchange.match._has_size", lambda file, _entry: compared.append(file))
    files = [file(n, f"/m/{n}/01.mp3", duration_s=2.0 * n) for n in range(1000)]
    entries = [Entry((b"/e/01.mp3",), n + 0.1) for n in range(2000)]
    assert match([ForeignList(("House",), entries)], files, PathMap({})).entries == 2000
    assert len(compared) <= 2 * len(entries)


# ---- labels


def test_where_playlists_stand_among_the_sources():
    file = FileFacts(1, "ab", b"/m/Ambient/x.mp3", b"/m", "Techno", None, None)
    members = [(1, ("trance",))]
    said = {"corrections": {1: "house"}, "members": members}
    order = ("corrections", "playlists", "tags", "folders")
    for n, label in enumerate(("house", "trance", "techno", "ambient")):
        found = gather([file], Aliases(), sources=order[n:], **said)
        assert (found.label_of, found.source_of) == ({1: label}, {1: order[n]})


def test_the_name_of_the_playlist_or_else_of_a_folder_is_the_label():
    files = [FileFacts(n, f"{n}", b"/m/%d" % n, b"/m", None, None, None) for n in range(1, 7)]
    members = [
        (1, ("Techno", "DnB")),
        (2, ("Techno", "gig")),
        (3, ("gig",)),
        (4, ("House",)), (4, ("Trance",)),
        (5, ("House",)), (5, ("House Music",)), (5, ("Trance",)),
        (6, ("House", "best of")),
    ]  # fmt: skip
    found = gather(files, Aliases({"best of": ""}), sources=("playlists",), members=members)
    assert found.label_of == {1: "drum and bass", 2: "techno", 5: "house"}
    assert found.unmapped == {"playlists": {"gig": 1}}
    assert found.contradictions == {"playlists": 2}


def test_train_learns_from_playlists(labelled_library, tmp_path):
    with_tags = labelled_library
    for genre, first in (("Ambient", 0), ("Drum & Bass", 1)):
        lines = "".join(f"#EXTINF:1,x\nE:\\sets\\{n}.mp3\n" for n in range(first, 90, 3))
        write(tmp_path / "lists" / f"{genre}.m3u8", "#EXTM3U\n" + lines + "gone.mp3\n")
    lists = sorted((tmp_path / "lists").iterdir())
    mapped = ("--map", f"{tmp_path}/music=E:/sets", "--map", "/nothing=F:")
    found = with_tags.json("train", "--playlists", lists[0], lists[1], *mapped)
    assert found["labels"] == {"ambient": 30, "drum and bass": 30}
    assert found["sources"] == {"corrections": 0, "playlists": 60}
    told = found["playlists"]
    assert (told["files"], told["lists"], told["entries"], told["by_path"], told["unmatched"]) == (2, 2, 62, 60, 2)
    assert told["unused_maps"] == ["/nothing=F:"]
    again = with_tags("train", "--playlists", tmp_path / "lists", "--labels", "tags", *mapped)
    assert "60 found by path" in again.stdout
    assert "--map /nothing=F: fits none of them" in again.stdout
    assert "labels from playlists 60, tags 30" in again.stdout
    shutil.rmtree(tmp_path / "lists")
    assert "no such file" in with_tags("train", "--playlists", lists[0], code=2).stderr
    assert "playlists come after --playlists" in with_tags("train", lists[0], code=2).stderr
    write(tmp_path / "nothing.m3u8", "/nowhere/x.mp3\n")
    nothing = with_tags("train", "--playlists", tmp_path / "nothing.m3u8", code=2)
    assert "of 1 entries of the playlists 0 are tracks of the library, /nowhere/x.mp3 for" in nothing.stderr
    write(tmp_path / "lists" / "bad.xml", BOMB)
    nothing = with_tags("train", "--playlists", tmp_path / "lists", "--map", "/nothing=F:", code=2)
    assert "--map /nothing=F: fits none of them; 1 could not be read: " in nothing.stderr
