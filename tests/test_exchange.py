"""Exports for DJ programs: read back by other readers, and nothing of the user's is overwritten."""

import os
import shutil
from pathlib import Path
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as ET

import pytest

from indexer.config import load_settings
from indexer.errors import ConfigError
from indexer.exchange import own_files, own_folder, rekordbox
from indexer.exchange.dj_paths import PathMap, from_drive_root
from indexer.exchange.export import export, file_names
from indexer.exchange.rekordbox import Playlist, location
from indexer.files.audio.identity import Stat
from indexer.files.mounts import Mount
from indexer.library import questions
from indexer.library.listed import ListedTrack
from indexer.library.store import Store
from tests.helpers.pages import id_of
from tests.helpers.peak import begin_peak, peak_bytes

LONG = "é" * 125 + "x.mp3"  # 255 bytes, as many as a name can have
ODD = {
    "a & b <c> \"d\" 'e'.mp3": "quotes & more",
    "100 % #1 + ?x=y;z.flac": "Γειά σου ☃ 🎵",
    LONG: "x" * 400,
    "tab\tand\nbreak\x01.wav": None,
    os.fsdecode(b"caf\xe9.aiff"): None,
    "plain.mp3": "plain",
}


def fill(db, folder, names=ODD, *, genre=lambda n: ("House", "Techno & Co", None)[n % 3], offline=False):
    """A library of files that are not on the disk."""
    with Store(db) as store, store.transaction():
        root = store.add_root(os.fsencode(folder))
        for n, (name, title) in enumerate(names.items()):
            recording = store.recording(f"{n:064x}", codec="x", sample_rate_hz=44_100, channels=2, duration_s=200.4)
            file = store.put_file(
                os.fsencode(folder) + b"/" + os.fsencode(name),
                Stat(1, n, 5_000_000, 1),
                root_id=root,
                state="ready",
                recording_id=recording,
                container=Path(name).suffix[1:],
            )
            store.put_tags(file, {"title": title, "artist": f"artist {n}", "genre": genre(n), "bpm": 128.0 + n / 3})
        if offline:
            store._run("UPDATE roots SET state = 'offline'")
            store._run("UPDATE files SET state = 'missing'")


@pytest.fixture
def library(quick_cli, monkeypatch):
    """The command line on a library of six files with odd names in the folder /mnt/music; no questions are asked."""
    fill(quick_cli.db, "/mnt/music")
    monkeypatch.setattr(questions, "ready_made", dict)
    return quick_cli


def exact(track) -> bytes:
    """The path that a Location names, as rekordbox reads it."""
    address = track.get("Location")
    assert address.startswith("file://localhost/")
    assert not address.startswith("file://localhost//")
    return unquote_to_bytes(address.removeprefix("file://localhost"))


def nodes(file):
    """{path of names: keys of its tracks} of all playlists in a file; every count in it is right."""
    document = ET.parse(file).getroot()
    collection = document.find("COLLECTION")
    assert int(collection.get("Entries")) == len(collection)
    known = [track.get("TrackID") for track in collection]
    assert len({*known}) == len(known)
    found = {}

    def walk(node, above):
        inside = list(node)
        if node.get("Type") == "0":
            assert int(node.get("Count")) == len(inside)
            for one in inside:
                walk(one, (*above, node.get("Name")))
        else:
            assert (int(node.get("Entries")), node.get("KeyType")) == (len(inside), "0")
            found[*above, node.get("Name")] = [one.get("Key") for one in inside]
            assert {*found[*above, node.get("Name")]} <= {*known}

    (root,) = document.find("PLAYLISTS")
    walk(root, ())
    return collection, found


def test_rekordbox_xml_says_what_the_library_knows(library, tmp_path):
    out = tmp_path / "out.xml"
    result = library("export", "--rekordbox", out)
    assert "two steps" in result.stdout
    assert "Import Playlist" in result.stdout
    assert "1 track with a path that is no UTF-8" in result.stderr
    collection, lists = nodes(out)
    assert [exact(track) for track in collection] == [b"/mnt/music/" + os.fsencode(name) for name in ODD]
    assert [track.get("Name") for track in collection] == [
        "quotes & more",
        "Γειά σου ☃ 🎵",
        "x" * 400,
        "tab\\tand\\nbreak\\x01.wav",
        "caf\\xe9.aiff",
        "plain",
    ]
    first = dict(collection[0].attrib)
    assert first.items() >= {
        "Artist": "artist 0", "Genre": "House", "Kind": "MP3 File", "Size": "5000000", "TotalTime": "200",
        "AverageBpm": "128.00", "BitRate": "200", "SampleRate": "44100",
    }.items()  # fmt: skip
    assert collection[1].get("AverageBpm") == "128.33"
    assert collection[2].get("Genre") is None
    assert lists == {
        ("ROOT", "indexer", "Genres", "House"): ["1", "4"],
        ("ROOT", "indexer", "Genres", "Techno & Co"): ["2", "5"],
        ("ROOT", "indexer", "Undecided"): [],
    }


def test_pyrekordbox_reads_it(library, tmp_path):
    reader = pytest.importorskip("pyrekordbox", reason="pyrekordbox is not installed")
    library("export", "--rekordbox", tmp_path / "out.xml", "--map", "/mnt/music=D:\\My Music\\")
    xml = reader.RekordboxXml(tmp_path / "out.xml")
    assert xml.num_tracks == 6
    assert [track["Location"] for track in xml.get_tracks()][:3] == [f"D:/My Music/{name}" for name in [*ODD][:3]]
    assert [track["Name"] for track in xml.get_tracks()][1] == "Γειά σου ☃ 🎵"
    assert xml.get_playlist("indexer", "Genres", "Techno & Co").get_tracks() == [2, 5]


def test_playlists_of_questions_and_of_what_is_undecided(scanned, tmp_path):
    fast = {"INDEXER_MIN_CONFIDENCE": "1"}  # the head is never sure
    scanned("relabel", env=fast)
    scanned("export", "--rekordbox", tmp_path / "out.xml")
    collection, lists = nodes(tmp_path / "out.xml")
    assert len(lists["ROOT", "indexer", "Undecided"]) == len(collection) == 6
    shutil.copyfile(tmp_path / "music" / "mp3.mp3", tmp_path / "music" / "again.mp3")
    scanned("scan", tmp_path / "music", "--no-tags", env=fast)
    scanned("export", "--rekordbox", tmp_path / "out.xml")
    same = nodes(tmp_path / "out.xml")[1]["ROOT", "indexer", "Questions", "The same track in several files"]
    assert sorted(same) == sorted(str(id_of(scanned, f"/{name}")) for name in ("mp3.mp3", "again.mp3"))


@pytest.mark.parametrize(
    ("path", "address"),
    [
        (b"/a b/c.mp3", "file://localhost/a%20b/c.mp3"),
        (b"D:/a#b/100%.mp3", "file://localhost/D:/a%23b/100%25.mp3"),
        (b"/x:y/\xe9", "file://localhost/x%3Ay/%E9"),
        ("/ü & ü".encode(), "file://localhost/%C3%BC%20%26%20%C3%BC"),
    ],
)
def test_locations(path, address):
    assert location(path) == address


def test_maps_of_paths():
    paths = PathMap({"/mnt": "/Volumes/NAS", "/mnt/music/": "d:\\Music\\", "/srv": "E:", "/never": "/x"})
    assert paths.there(b"/mnt/music/a.mp3") == b"d:/Music/a.mp3"
    assert paths.there(b"/mnt/musical/a.mp3") == b"/Volumes/NAS/musical/a.mp3"
    assert paths.there(b"/srv/a.mp3") == b"E:/a.mp3"
    assert paths.there(b"/elsewhere/a.mp3") == b"/elsewhere/a.mp3"
    assert paths.unused == ["/never=/x"]
    assert paths.here(b"D:/music/a.mp3") == b"/mnt/music/a.mp3"  # Windows does not tell case apart
    assert paths.here(b"/volumes/NAS/a.mp3") is None
    assert PathMap({"/": "/Volumes/Disk"}).there(b"/a") == b"/Volumes/Disk/a"
    for wrong in ({"music": "D:/"}, {"/m": "music"}, {"/m": "\\\\server\\share"}, {"/m": ""}):
        with pytest.raises(ConfigError):
            PathMap(wrong)


def test_a_map_that_fits_nothing_writes_nothing(library, tmp_path):
    result = library("export", "--rekordbox", tmp_path / "out.xml", "--map", "/mnt/musik=D:/", code=2)
    assert "/mnt/musik=D:" in result.stderr
    assert not (tmp_path / "out.xml").exists()
    assert "LEFT=RIGHT" in library("export", "--rekordbox", tmp_path / "out.xml", "--map", "/mnt", code=2).stderr


def test_m3u8_files_absolute_and_relative(scanned, scanned_music, tmp_path):
    fast = {"INDEXER_MIN_CONFIDENCE": "0"}
    scanned("relabel", env=fast)
    found = scanned.json("export", "--m3u", tmp_path / "lists")
    assert found["m3u"]["left_out"] == 0

    def listed(file):
        lines = file.read_bytes().split(b"\n")
        assert lines[0] == b"#EXTM3U"
        return [os.fsdecode(line) for line in lines if line and not line.startswith(b"#")]

    absolute = {file.name: listed(file) for file in (tmp_path / "lists").glob("*.m3u8")}
    scanned("export", "--m3u", tmp_path / "relative", "--relative")
    relative = {file.name: listed(file) for file in (tmp_path / "relative").glob("*.m3u8")}
    of_genres = [path for name, paths in absolute.items() if name != "Undecided.m3u8" for path in paths]
    assert sorted(of_genres) == sorted(str(path) for path in scanned_music.rglob("*.*"))
    assert relative.keys() == absolute.keys()
    for name, paths in relative.items():
        assert [os.path.normpath(tmp_path / "relative" / path) for path in paths] == absolute[name]
        assert all(path.startswith("../music/") for path in paths)
    mapped = {"INDEXER_DJ_MAP": f'{{"{scanned_music}" = "D:/Music"}}'}
    scanned("export", "--m3u", tmp_path / "lists", env=mapped)
    assert {path[:9] for file in (tmp_path / "lists").glob("*.m3u8") for path in listed(file)} == {"D:/Music/"}


def test_serato_crates_are_read_back(library, tmp_path):
    crate = pytest.importorskip("serato_tools.crate", reason="serato-tools is not installed")
    folder = tmp_path / "crates"
    found = library.json("export", "--serato", folder, "--map", "/mnt/music=D:/Music")["serato"]
    assert (found["playlists"], found["left_out"]) == (3, 1)  # the path that is no UTF-8
    names = [*ODD]
    assert {file.stem: crate.Crate(os.fspath(file)).tracks() for file in folder.glob("*.crate")} == {
        "House": [f"Music/{names[0]}", f"Music/{names[3]}"],
        "Techno & Co": [f"Music/{names[1]}"],
        "Undecided": [],
    }


def test_serato_names_a_track_from_the_root_of_its_drive():
    mounts = [Mount(1, b"/", "ext4", b"a"), Mount(2, b"/media/me/USB", "exfat", b"b")]
    for path, rooted in (
        (b"D:/Music/x.mp3", b"Music/x.mp3"),
        (b"/Volumes/USB/Music/x.mp3", b"Music/x.mp3"),
        (b"/Users/me/x.mp3", b"Users/me/x.mp3"),
        (b"/media/me/USB/Music/x.mp3", b"Music/x.mp3"),
    ):
        assert from_drive_root(path, mounts) == rooted


@pytest.mark.parametrize("option", ["--m3u", "--serato"])
def test_files_of_the_users_in_a_folder_are_never_overwritten(library, tmp_path, option):
    folder = tmp_path / "lists"
    library("export", option, folder)
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    library("export", option, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
    (house,) = [path for path in folder.iterdir() if path.name.startswith("House")]
    house.write_bytes(b"the user's own")
    assert "is not a file that indexer wrote, or was changed since" in library("export", option, folder, code=2).stderr
    assert house.read_bytes() == b"the user's own"
    house.unlink()
    house.mkdir()
    library("export", option, folder, "--rekordbox", tmp_path / "out.xml", code=2)
    assert not (tmp_path / "out.xml").exists()  # nothing is written where one of several targets is refused
    house.rmdir()
    house.symlink_to(tmp_path / "elsewhere")
    library("export", option, folder, code=2)
    house.unlink()
    # A list of an earlier export goes, one that was changed stays, and so does what was never ours.
    (folder / "mine.m3u8").write_bytes(b"mine")
    with Store(library.db) as store:
        store._run("UPDATE tags SET genre = 'Trance'")
    library("export", option, folder)
    assert {path.stem for path in folder.iterdir() if path.suffix in (".m3u8", ".crate")} == {
        "Trance", "Undecided", "mine",
    }  # fmt: skip
    assert not [path for path in folder.iterdir() if path.name.endswith(".indexer")]


def test_crates_and_m3u8_share_a_folder(library, tmp_path):
    for _ in range(2):
        library("export", "--m3u", tmp_path / "lists", "--serato", tmp_path / "lists")
        library("export", "--m3u", tmp_path / "lists")
        names = sorted(path.name for path in (tmp_path / "lists").iterdir() if path.name != own_folder.LIST)
        assert names == sorted(
            f"{name}{ending}" for name in ("House", "Techno & Co", "Undecided") for ending in (".crate", ".m3u8")
        )


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b'{"format": "indexer playlists", "files": {"../mine": ["0"]}}', b"\xff"]
)
def test_a_damaged_list_of_our_files_makes_none_of_them_ours(library, tmp_path, damage):
    folder = tmp_path / "lists"
    library("export", "--m3u", folder)
    (tmp_path / "mine").write_bytes(b"")
    (folder / own_folder.LIST).write_bytes(damage)
    library("export", "--m3u", folder, code=2)
    assert (tmp_path / "mine").exists()


def test_an_old_list_that_cannot_be_read_ends_in_one_line(tmp_path, monkeypatch):
    lists = {name: lambda out: out.write(b"1") for name in ("a.m3u8", "old.m3u8")}
    own_folder.write(tmp_path, ".m3u8", lists)
    real = own_folder._sha256

    def refused(path):
        if path.name == "old.m3u8":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(own_folder, "_sha256", refused)
    with pytest.raises(ConfigError, match=r"old.m3u8: cannot be written \(Permission denied"):
        own_folder.write(tmp_path, ".m3u8", {"a.m3u8": lists["a.m3u8"]})


def test_only_our_own_unchanged_xml_is_replaced(library, tmp_path):
    out = tmp_path / "out.xml"
    library("export", "--rekordbox", out)
    inode = out.stat().st_ino
    library("export", "--rekordbox", out)
    assert out.stat().st_ino == inode  # nothing new: not written
    with Store(library.db) as store:
        store._run("UPDATE tags SET genre = 'Trance'")
    library("export", "--rekordbox", out)
    ours = out.read_bytes()
    assert b"Trance" in ours
    for content in (b"<DJ_PLAYLISTS/>", ours.replace(b"Trance", b"Trence"), b"", ours[:300]):
        out.write_bytes(content)
        assert "move it away" in library("export", "--rekordbox", out, code=2).stderr
        assert out.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".indexer")] == []
    assert "must end in .xml" in library("export", "--rekordbox", tmp_path / "song.mp3", code=2).stderr
    assert "cannot be written" in library("export", "--rekordbox", tmp_path / "none" / "out.xml", code=2).stderr
    assert "say what to write" in library("export", code=2).stderr
    for option in ("--rekordbox", "--m3u", "--serato", "--parquet"):
        assert f"'{option}': it is empty" in library("export", option, "", code=2).stderr


def test_an_interrupted_export_leaves_the_earlier_one(library, tmp_path, monkeypatch):
    out = tmp_path / "out.xml"
    library("export", "--rekordbox", out)
    before = out.read_bytes()

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(rekordbox, "_write_node", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(load_settings(None, {"db": library.db}, {}), to_rekordbox=out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["out.xml"]


def test_a_drive_that_is_away_empties_no_playlist(quick_cli, tmp_path):
    fill(quick_cli.db, "/mnt/music", offline=True)
    assert quick_cli.json("export", "--rekordbox", tmp_path / "out.xml")["rekordbox"]["tracks"] == 6
    with Store(quick_cli.db) as store:
        store._run("UPDATE roots SET state = 'online'")
    assert quick_cli.json("export", "--rekordbox", tmp_path / "out.xml")["rekordbox"]["tracks"] == 0


def test_names_of_files_for_every_file_system():
    names = ["House", "house", "a/b: <c>?", "..", "CON", "ends. ", "%%", "é" * 200, "\x00\udcff"]
    found = file_names([Playlist(name) for name in names], ".crate")
    assert [*found][:7] == ["House.crate", "house (2).crate", "a_b_ _c__.crate", "_.crate", "_CON.crate",
        "ends.crate", "%.crate"]  # fmt: skip
    assert max(len(name.encode()) for name in found) <= 255
    assert [*found][-1] == "__.crate"


class Counted:
    """Counts what is written, and keeps nothing."""

    size = 0

    def write(self, data):
        self.size += len(data)


def test_any_number_of_tracks_takes_the_same_memory():
    def write(count):
        out, playlists = Counted(), [Playlist("House", range(count))]
        track = ListedTrack(
            1, b"/mnt/music/1.mp3", "mp3", 9_000_000, "2026-01-01T00:00:00Z", "title", "artist", None, 2020, 128.0,
            "8A", None, None, "House", "House", "tag", 300.0, 44_100,
        )  # fmt: skip
        tracks = (track._replace(id=n) for n in range(count))
        rekordbox.write(out, tracks, count, playlists, there=bytes, genre_of=lambda _: "House")
        return out.size

    write(100)
    begin_peak()
    before = peak_bytes()
    assert write(20_000) > 5_000_000
    assert peak_bytes() - before < 2_000_000


def test_the_seal_tells_ours(tmp_path):
    file = tmp_path / "list.m3u8"
    assert own_files.write_sealed(file, own_files.M3U8, lambda out: out.write(b"/a.mp3\n"))
    assert file.read_bytes().startswith(b"#EXTM3U\n# made by indexer")
    assert file.read_bytes().endswith(b"\n/a.mp3\n")
    assert not own_files.write_sealed(file, own_files.M3U8, lambda out: out.write(b"/a.mp3\n"))
    assert own_files.write_sealed(file, own_files.M3U8, lambda out: out.write(b"/b.mp3\n"))
    with file.open("ab") as out:
        out.write(b"/c.mp3\n")
    with pytest.raises(ConfigError):
        own_files.write_sealed(file, own_files.M3U8, lambda out: out.write(b"/d.mp3\n"))


def test_what_a_killed_export_left_is_used_again_and_two_never_write_at_once(tmp_path):
    file = tmp_path / "list.m3u8"

    def write(writer):
        return own_files.write_sealed(file, own_files.M3U8, writer)

    def meanwhile(out):
        (temporary,) = tmp_path.iterdir()
        names.append(temporary.name)
        with pytest.raises(ConfigError, match="another indexer writes it"):
            write(lambda out: out.write(b"/b.mp3\n"))
        out.write(b"/a.mp3\n")

    names = []
    assert write(meanwhile)
    (tmp_path / names[0]).write_bytes(b"x" * 1000)  # as a killed process leaves it
    assert not write(lambda out: out.write(b"/a.mp3\n"))
    mine = tmp_path.parent / "mine"
    mine.write_bytes(b"mine")
    for link in (os.symlink, os.link):  # that another user put there
        link(mine, tmp_path / names[0])
        with pytest.raises(ConfigError):
            write(lambda out: out.write(b"/c.mp3\n"))
        (tmp_path / names[0]).unlink()
    assert mine.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["list.m3u8"]
    assert file.read_bytes().endswith(b"/a.mp3\n")
