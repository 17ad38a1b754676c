"""Reading tags of every container, hostile text and damaged files; genre edits in place keep all other bytes."""

import contextlib
import dataclasses
import errno
import struct
import tracemalloc
import zlib
from pathlib import Path

import av
import mutagen
import mutagen.apev2
import mutagen.flac
import mutagen.id3
import mutagen.mp4
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.errors import ReadError, UnsupportedError, WriteRefusedError
from indexer.files.audio.identity import fingerprint, sniff
from indexer.files.containers import CONTAINERS as CONTAINER_ENTRIES
from indexer.files.tags.blocks.id3 import parse, tag_size, to_synchsafe, unsynchronise
from indexer.files.tags.blocks.id3_genres import named
from indexer.files.tags.genre import (
    GenreEdit,
    IndexerGenre,
    changed_fields,
    other_fields,
    refuse_damaged,
    restore_genre,
    set_genre,
    standing_genres,
)
from indexer.files.tags.read import MAX_COMMENT, MAX_TEXT, Tags, clean, read_tags
from tests.helpers.synth import CONTAINERS, write_audio
from tests.helpers.tag_bytes import ape_tag, frame, id3_tag

FIXTURE = Path(__file__).parents[2] / "shared" / "tag-fixture"
EDIT = GenreEdit(("Drum & Bass",), "drum and bass", 0.93, "linear@12345678")
WRITABLE = [name for name in CONTAINERS if name != "aac"]


def container_of(path: Path) -> str:
    with path.open("rb") as file:
        return sniff(file)


@pytest.fixture(scope="module")
def mp3_audio(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The frames of an MP3 without any tag."""
    data = write_audio(tmp_path_factory.mktemp("mp3") / "a", "mp3", 0.5).read_bytes()
    return data[tag_size(data[:10]) or 0 :]


def test_all_fields_of_id3_are_read(tmp_path: Path, mp3_audio: bytes) -> None:
    path = tmp_path / "a.mp3"
    frames = [
        frame(b"TIT2", b"\0Title"),
        frame(b"TPE1", b"\0Artist"),
        frame(b"TALB", b"\0Album"),
        frame(b"TPE2", b"\0Various"),
        frame(b"TYER", b"\x001997"),
        frame(b"TBPM", b"\x00174.5"),
        frame(b"TKEY", b"\x005A"),
        frame(b"TPUB", b"\0Metalheadz"),
        frame(b"TCON", b"\0(127)"),
        frame(b"COMM", b"\0eng\0good"),
        frame(b"GEOB", b"\0application/octet-stream\0\0Serato Markers2\0\1\1abc"),
        frame(b"PRIV", b"TRAKTOR4\0xyz"),
        frame(b"GEOB", b"\0application/json\0\0CuePoints\0{}"),
    ]
    path.write_bytes(id3_tag(frames) + mp3_audio)
    assert read_tags(path, "mp3") == Tags(
        title="Title",
        artist="Artist",
        album="Album",
        album_artist="Various",
        comment="good",
        musical_key="5A",
        record_label="Metalheadz",
        year=1997,
        bpm=174.5,
        filled=("BPM", "INITIALKEY"),
        genres=("Drum & Bass",),
        dj_data=("Mixed In Key", "Serato", "Traktor"),
    )


@pytest.mark.parametrize("name", WRITABLE)
def test_common_fields_are_read_in_every_container(tmp_path: Path, name: str) -> None:
    path = write_audio(tmp_path / name, name, 0.3)
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    kind = type(file).__name__
    if isinstance(file.tags, mutagen.id3.ID3):
        file.tags.add(mutagen.id3.TIT2(encoding=3, text="Song"))
        file.tags.add(mutagen.id3.TCON(encoding=3, text=["House", "Techno"]))
    elif kind == "MP4":
        file.tags["\xa9nam"], file.tags["\xa9gen"] = ["Song"], ["House", "Techno"]
    elif kind == "ASF":
        file.tags["Title"], file.tags["WM/Genre"] = ["Song"], ["House", "Techno"]
    else:
        file.tags["Title"], file.tags["Genre"] = ["Song"], ["House", "Techno"]
    file.save()
    found = read_tags(path, container_of(path))
    assert (found.title, found.genres, found.genre) == ("Song", ("House", "Techno"), "House; Techno")


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_without_tags_gives_empty_ones(tmp_path: Path, name: str) -> None:
    path = write_audio(tmp_path / name, name, 0.3)
    found = read_tags(path, container_of(path))
    assert (found.artist, found.genres, found.ours, found.dj_data) == (None, (), None, ())


def test_text_is_cleaned_and_capped() -> None:
    assert clean("a\x00b\x1b[31m\ud800\u202ec") == "a b [31m\ufffdc"
    assert len(clean("x" * 100_000)) == MAX_TEXT
    assert clean("x" * 100_000, MAX_COMMENT).isascii()


def stumble(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Have the reader of MP3 tags raise an error."""

    def read(_file: object) -> None:
        raise error

    monkeypatch.setitem(CONTAINER_ENTRIES, "mp3", dataclasses.replace(CONTAINER_ENTRIES["mp3"], read_fields=read))


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RecursionError("deep"), mutagen.MutagenError("odd"), EOFError(), struct.error("8 bytes"),
     KeyError("name"), AssertionError(), OSError(errno.EINVAL, "Invalid argument"), ZeroDivisionError("by zero")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_parser_that_stumbles_leaves_the_tags_unread(tmp_path, monkeypatch, error):
    (tmp_path / "a").write_bytes(b"x")
    stumble(monkeypatch, error)
    found = read_tags(tmp_path / "a", "mp3")
    assert found == Tags(unread=found.unread)
    assert found.unread.startswith("its tags cannot be read (")
    assert "\n" not in found.unread
    assert Tags.from_json(found.to_json()) == found


def test_a_failing_disk_is_not_taken_for_a_damaged_tag(tmp_path, monkeypatch):
    """mutagen raises an error of its own for it; what the disk could not give is not stored as absent."""
    (tmp_path / "a").write_bytes(b"x")
    wrapped = mutagen.MutagenError("read")
    wrapped.__context__ = OSError(errno.EIO, "Input/output error")
    for error in (wrapped, wrapped.__context__):
        stumble(monkeypatch, error)
        with pytest.raises(ReadError, match="Input/output error"):
            read_tags(tmp_path / "a", "mp3")


def test_an_unknown_container_has_no_tags(tmp_path: Path) -> None:
    assert read_tags(tmp_path / "none", "other") == Tags()


def test_tags_cross_a_process_border_unchanged() -> None:
    found = Tags(
        title="x",
        genres=("House", "Techno"),
        ours=IndexerGenre("House", "house", 0.5, "m"),
        original_genres=("A",),
    )
    assert Tags.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 5000, b"<html>" * 500, b"ID3\x04\0\0\x7f\x7f\x7f\x7f", b"RIFF\xff\xff\xff\xffWAVE", b"OggS", b"fLaC"],
)
@pytest.mark.parametrize("container", ["mp3", "flac", "vorbis", "opus", "mp4", "wav", "aiff", "asf", "wavpack", "dsf"])
def test_garbage_raises_nothing_but_our_errors(tmp_path: Path, data: bytes, container: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    for call in (read_tags, other_fields):
        with contextlib.suppress(ReadError):
            call(path, container)
    try:
        set_genre(path, container, EDIT)
    except (ReadError, WriteRefusedError):
        assert path.read_bytes() == data


@pytest.mark.skipif(not FIXTURE.is_dir(), reason="the folder of odd files is not there")
def test_every_odd_file_is_read_or_refused() -> None:
    """All of them through the parser of their own container: nothing but ReadError comes out."""
    read = 0
    for path in sorted(p for p in FIXTURE.rglob("*") if p.is_file()):
        try:
            read_tags(path, container_of(path))
            read += 1
        except ReadError:
            pass
    assert read > 450


def chunk(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)


def wav_with_tags(form: bytes, *, riff_size: int | None = None, behind: bytes = b"") -> bytes:
    """A WAV of half a second of silence, with LIST INFO in front of the sound and an ID3 chunk behind it.

    In the forms of 64 bits the sizes stand in ``ds64``.
    """
    sound = bytes(44_100)
    info = b"INFO" + chunk(b"INAM", b"Info title\0") + chunk(b"IART", b"Info artist\0")
    tag = id3_tag([frame(b"TIT2", b"\0Title"), frame(b"TCON", b"\0Techno")])
    head = b"WAVE"
    if form != b"RIFF":
        head += chunk(b"ds64", bytes(8) + len(sound).to_bytes(8, "little") + bytes(12))
    head += chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 44_100, 88_200, 2, 16)) + chunk(b"LIST", info)
    data = chunk(b"data", sound) if form == b"RIFF" else b"data" + b"\xff" * 4 + sound
    body = head + data + chunk(b"id3 ", tag) + behind
    size = riff_size if riff_size is not None else len(body) if form == b"RIFF" else 0xFFFFFFFF
    return form + size.to_bytes(4, "little") + body


@pytest.mark.parametrize("form", [b"RIFF", b"RF64", b"BW64"])
def test_wav_of_more_than_4_gib_is_read_like_wav_and_never_written(tmp_path: Path, form: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data := wav_with_tags(form))
    found = read_tags(path, container_of(path))
    assert (found.title, found.artist, found.genres, found.unread) == ("Title", "Info artist", ("Techno",), None)
    with path.open("rb") as file:
        identity = fingerprint(file, path)
    path.write_bytes(wav_with_tags(b"RIFF"))
    with path.open("rb") as file:
        assert fingerprint(file, path) == identity  # the same sound under the other form of header
    if form != b"RIFF":
        path.write_bytes(data)
        with pytest.raises(WriteRefusedError, match="more than 4 GiB"):
            refuse_damaged(path, "wav")


@pytest.mark.parametrize(
    ("riff_size", "behind"), [(0, b""), (0xFFFFFFFF, b""), (36, b""), (10**6, b""), (None, b"\0\1junk tail" * 3)]
)
def test_the_tags_of_a_wav_are_read_whatever_its_sizes_say(tmp_path: Path, riff_size: int, behind: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(wav_with_tags(b"RIFF", riff_size=riff_size, behind=behind))
    found = read_tags(path, "wav")
    assert (found.title, found.artist, found.genres, found.unread) == ("Title", "Info artist", ("Techno",), None)
    with pytest.raises(WriteRefusedError):
        refuse_damaged(path, "wav")


def test_a_damaged_tag_does_not_hide_the_others(tmp_path: Path, mp3_audio: bytes) -> None:
    """What the others say is shown; nothing is written, as nobody knows what the damaged one holds."""
    path = tmp_path / "a"
    path.write_bytes(wav_with_tags(b"RIFF").replace(b"ID3\3", b"ID3\5"))
    found = read_tags(path, "wav")
    assert (found.title, found.genres) == ("Info title", ())
    assert found.unread == "its tags cannot be read (ID3v2.5 not supported)"
    path.write_bytes(b"ID3\5" + id3_tag([])[4:] + mp3_audio + ape_tag({"Title": b"From APE"}))
    found = read_tags(path, "mp3")
    assert (found.title, found.unread) == ("From APE", "its tags cannot be read (ID3v2.5 not supported)")


def test_the_text_chunks_of_an_aiff_fill_the_gaps_of_its_id3_tag(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "aiff", 0.3)
    plain = path.read_bytes()

    def text(name: bytes, content: bytes) -> bytes:
        return name + len(content).to_bytes(4, "big") + content + bytes(len(content) % 2)

    texts = text(b"NAME", b"Name") + text(b"AUTH", "Jos\xe9".encode("latin-1")) + text(b"ANNO", "Größe".encode())
    path.write_bytes(plain[:4] + (len(plain) - 8 + len(texts)).to_bytes(4, "big") + plain[8:12] + texts + plain[12:])
    found = read_tags(path, "aiff")
    assert (found.title, found.artist, found.comment) == ("Name", "José", "Größe")
    set_genre(path, "aiff", EDIT)
    found = read_tags(path, "aiff")
    assert (found.title, found.artist, found.genres) == ("Name", "José", EDIT.genres)
    with av.open(str(path), metadata_errors="replace") as container:
        assert container.metadata["title"] == "Name"


def test_id3v23_keeps_every_byte_that_is_not_ours(tmp_path: Path, mp3_audio: bytes) -> None:
    """Version, TYER, frames that mutagen drops (RVAD, TSIZ), unknown ones, Serato and Traktor data, order and flags."""
    kept = [
        frame(b"TYER", b"\x001999"),
        frame(b"RVAD", b"\x03\x10\1\2\3\4\5\6\7\x08"),
        frame(b"XQQ1", b"vendor\xff\0\xfe"),
        frame(b"TSIZ", b"\x001234"),
        frame(b"GEOB", b"\0a/b\0\0Serato BeatGrid\0\1\2\xff\xe0\3"),
        frame(b"PRIV", b"TRAKTOR4\0DMRT\xff\xfb"),
        frame(b"TIT2", b"\1\xff\xfeT\0", flags=b"\x40\0"),
        frame(b"TIT3", b""),
        frame(b"COMM", b"\0engx\0"),
        frame(b"COMM", b"\0engx\0"),
    ]
    path = tmp_path / "a.mp3"
    old = frame(b"TCON", b"\1\xff\xfeH\0o\0u\0s\0e\0")
    path.write_bytes(before := id3_tag([*kept[:4], old, *kept[4:]], padding=600) + mp3_audio)
    set_genre(path, "mp3", EDIT)
    raw = parse(path.read_bytes())
    assert (raw.major, [f for f in raw.frames if f[:4] not in (b"TCON", b"TXXX")]) == (3, kept)
    assert raw.frames[4] == frame(b"TCON", b"\0Drum & Bass")
    assert len(path.read_bytes()) == len(before)  # the padding was used
    independent = mutagen.id3.ID3(path, translate=False)
    assert independent.version == (2, 3, 0)
    assert independent["TCON"].text == ["Drum & Bass"]
    restore_genre(path, "mp3")
    assert path.read_bytes() == before


def test_a_compressed_picture_is_not_unpacked(tmp_path: Path, mp3_audio: bytes) -> None:
    """100 MB of zeros in 100 kB: neither reading nor writing inflates it, and it stays as it is."""
    size = 100_000_000
    bomb = frame(b"APIC", size.to_bytes(4, "big") + zlib.compress(b"\0image/png\0\3\0" + bytes(size)), flags=b"\0\x80")
    path = tmp_path / "a.mp3"
    path.write_bytes(id3_tag([bomb, frame(b"TIT2", b"\0x")]) + mp3_audio)
    tracemalloc.start()
    try:
        assert read_tags(path, "mp3").title == "x"
        set_genre(path, "mp3", EDIT)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert bomb in path.read_bytes()


@pytest.mark.parametrize("major", [3, 4])
@pytest.mark.parametrize("flags", [0, 0x80])
def test_unsynchronised_tags_stay_so(tmp_path: Path, mp3_audio: bytes, major: int, flags: int) -> None:
    content = b"x\0\xff\x00\xff\xe0\xff" if major == 3 or not flags else unsynchronise(b"x\0\xff\xe0")
    path = tmp_path / "a.mp3"
    path.write_bytes(
        before := id3_tag([frame(b"PRIV", content, major=major)], major=major, flags=flags, padding=10) + mp3_audio
    )
    set_genre(path, "mp3", EDIT)
    assert path.read_bytes()[3:6] == bytes([major, 0, flags])
    assert read_tags(path, "mp3").genres == EDIT.genres
    assert path.read_bytes().endswith(mp3_audio)
    restore_genre(path, "mp3")
    assert path.read_bytes() == before


def test_the_checksum_of_an_id3_tag_follows_the_genre(tmp_path: Path, mp3_audio: bytes) -> None:
    title = frame(b"TIT2", b"\0x", major=4)
    extended = b"\0\0\0\x0c\x01\x20\x05" + to_synchsafe(zlib.crc32(title), 5)
    path = tmp_path / "a.mp3"
    path.write_bytes(before := id3_tag([title], major=4, flags=0x40, extended=extended) + mp3_audio)
    set_genre(path, "mp3", EDIT)
    raw = parse(path.read_bytes())
    assert raw.extended[7:] == to_synchsafe(zlib.crc32(b"".join(raw.frames) + raw.padding), 5)
    restore_genre(path, "mp3")
    assert path.read_bytes() == before


def test_id3v1_and_ape_follow_where_they_exist(tmp_path: Path, mp3_audio: bytes) -> None:
    v1 = b"TAG" + b"Title".ljust(30, b"\0") + bytes(60) + b"1999" + b"c".ljust(28, b"\0") + b"\0\7" + bytes([17])
    ape = ape_tag({"Title": b"x", "GENRE": b"Rock\0Pop", "Cover Art (Front)": b"c.jpg\0\xff\xd8"})
    path = tmp_path / "a.mp3"
    path.write_bytes(before := mp3_audio + ape + v1)
    set_genre(path, "mp3", EDIT)
    assert path.read_bytes()[-128:] == v1[:-1] + bytes([127])  # 127 is Drum & Bass
    assert standing_genres(path, "mp3") == {"id3": [], "ape": ["Drum & Bass"], "id3v1": ["Drum & Bass"]}
    assert read_tags(path, "mp3").original_genres == ("Rock", "Pop")  # as it was read: APEv2 goes before ID3v1
    restore_genre(path, "mp3")
    assert path.read_bytes() == before
    path.write_bytes(before := id3_tag([frame(b"TIT2", b"\0x")], padding=900) + before)
    set_genre(path, "mp3", EDIT)
    assert standing_genres(path, "mp3") == {
        "id3": ["Drum & Bass"],
        "ape": ["Drum & Bass"],
        "id3v1": ["Drum & Bass"],
    }
    assert read_tags(path, "mp3").original_genres == ("Rock",)  # as it was read: ID3v1 fills up an ID3v2 tag
    restore_genre(path, "mp3")
    assert path.read_bytes() == before


def info_only(path: Path, entries: bytes, behind: bytes = b"") -> bytes:
    """A WAV with a LIST INFO of these entries and no ID3 chunk."""
    data = (
        write_audio(path, "wav", 0.3).read_bytes()
        + b"LIST"
        + (4 + len(entries)).to_bytes(4, "little")
        + b"INFO"
        + entries
        + behind
    )
    path.write_bytes(data := data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:])
    return data


def seen_by_others(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Title and artist as FFmpeg and mutagen (which reads no INFO) see them."""
    with av.open(str(path)) as file:
        ffmpeg = {key.lower(): value for key, value in {**file.metadata, **file.streams[0].metadata}.items()}
    try:
        ape = {key.lower(): str(value) for key, value in mutagen.apev2.APEv2(path).items()}
    except mutagen.apev2.APENoHeaderError:
        ape = {}
    return (
        {key: ffmpeg[key] for key in ("title", "artist") if key in ffmpeg},
        {key: ape[key] for key in ("title", "artist") if key in ape},
    )


@pytest.mark.parametrize("name", ["mp3", "wav"])
def test_title_and_artist_in_a_lesser_tag_are_not_hidden_by_a_new_one(
    tmp_path: Path, mp3_audio: bytes, name: str
) -> None:
    path = tmp_path / f"a.{name}"
    if name == "mp3":
        path.write_bytes(before := mp3_audio + ape_tag({"Title": b"Song", "Artist": b"Somebody"}))
    else:
        before = info_only(path, b"INAM\x05\0\0\0Song\0\0" + b"IART\x09\0\0\0Somebody\0\0")
    told = {"title": "Song", "artist": "Somebody"}
    seen = seen_by_others(path)
    assert told in seen
    for genres in (("House",), ("House", "Techno")):
        set_genre(path, name, GenreEdit(genres, "house", 0.5, "m"))
        assert seen_by_others(path) == seen
        found = read_tags(path, name)
        assert (found.title, found.artist, found.genres, found.genre_is_ours) == ("Song", "Somebody", genres, True)
        assert found.original_genres == ()
        assert standing_genres(path, name)["id3"] == []
    restore_genre(path, name)
    assert path.read_bytes() == before


@pytest.mark.parametrize("genre", [None, "House", "Polka"])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", ["mp3", "wav"])
def test_an_id3_tag_that_another_program_adds_after_us_loses_no_record(
    tmp_path: Path, mp3_audio: bytes, name: str, genre: str | None, again: bool,
) -> None:  # fmt: skip
    path = tmp_path / f"a.{name}"
    if name == "mp3":
        path.write_bytes(mp3_audio + ape_tag({"Title": b"Song", "Genre": b"Rock"}))
    else:
        info_only(path, b"INAM\x05\0\0\0Song\0\0" + b"IGNR\x05\0\0\0Rock\0\0")
    set_genre(path, name, GenreEdit(("House",), "house", 0.5, "m"))
    file = mutagen.File(path)
    if file.tags is None or name == "mp3":
        file.tags = None
        file.add_tags()
    file.tags.add(mutagen.id3.TIT2(encoding=3, text="Song"))
    if genre:
        file.tags.add(mutagen.id3.TCON(encoding=3, text=[genre]))
    file.save()
    changed, is_users = path.read_bytes(), again and genre == "Polka"
    assert read_tags(path, name).genre_is_ours == (genre != "Polka")
    if again:
        set_genre(path, name, GenreEdit(("Techno",), "techno", 0.5, "m"))
        found = read_tags(path, name)
        assert (found.genres, found.genre_is_ours, found.original_genres) == (
            ("Techno",),
            True,
            ("Polka",) if is_users else ("Rock",),
        )
    restore_genre(path, name)
    found = read_tags(path, name)
    assert (found.title, found.genres, found.ours, found.original_genres) == (
        "Song",
        ("Polka",) if is_users else ("Rock",),
        None,
        None,
    )
    standing = standing_genres(path, name)
    assert standing["ape" if name == "mp3" else "info"] == ["Rock"]
    assert standing["id3"] == ([] if genre is None else ["Polka"] if is_users else ["Rock"])
    assert path.read_bytes() != changed


def test_undo_finds_its_record_where_the_user_removed_the_rest_of_info(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    info_only(path, b"INAM\x05\0\0\0Song\0\0" + b"IGNR\x05\0\0\0Rock\0\0")
    set_genre(path, "wav", EDIT)
    data = path.read_bytes().replace(b"INAM\x05\0\0\0Song\0\0", b"")
    at = data.index(b"LIST") + 4
    data = data[:at] + (int.from_bytes(data[at : at + 4], "little") - 14).to_bytes(4, "little") + data[at + 4 :]
    path.write_bytes(data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:])
    set_genre(path, "wav", GenreEdit(("Techno",), "techno", 0.5, "m"))
    assert read_tags(path, "wav").original_genres == ("Rock",)
    restore_genre(path, "wav")
    assert standing_genres(path, "wav") == {"id3": [], "info": ["Rock"]}


def test_id3v1_alone_is_refused_and_a_blank_one_is_none(tmp_path: Path, mp3_audio: bytes) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(before := mp3_audio + b"TAG" + b"Title".ljust(124, b"\0") + b"\x11")
    for call in (lambda: set_genre(path, "mp3", EDIT), lambda: refuse_damaged(path, "mp3")):
        with pytest.raises(WriteRefusedError, match="only an ID3v1 tag"):
            call()
    assert path.read_bytes() == before
    path.write_bytes(before := mp3_audio + b"TAG" + b" " * 60 + bytes(64) + b"\x11")
    set_genre(path, "mp3", EDIT)
    assert standing_genres(path, "mp3") == {"id3": ["Drum & Bass"], "ape": [], "id3v1": ["Drum & Bass"]}
    restore_genre(path, "mp3")
    assert path.read_bytes() == before


@pytest.mark.parametrize("tagged", [True, False], ids=["ID3 chunk", "INFO alone"])
def test_wav_gets_the_genre_wherever_there_is_a_tag(tmp_path: Path, tagged: bool) -> None:
    path = tmp_path / "a"
    odd = b"bext\x03\0\0\0xyz\0"
    tag = id3_tag([frame(b"TIT2", b"\0x")]) if tagged else b""
    chunk = b"id3 " + len(tag).to_bytes(4, "little") + tag + b"\0" * (len(tag) % 2) if tag else b""
    data = info_only(path, b"IART\x03\0\0\0ab\0\0" + b"IGNR\x05\0\0\0Rock\0\0", odd + chunk)
    assert read_tags(path, "wav").genres == ("Rock",)
    set_genre(path, "wav", EDIT)
    now = path.read_bytes()
    assert b"IART\x03\0\0\0ab\0\0IGNR\x0c\0\0\0Drum & Bass\0" in now
    assert odd in now
    assert int.from_bytes(now[4:8], "little") == len(now) - 8
    assert (b"ixgn" in now, b"ixor" in now) == (not tagged, not tagged)
    found = mutagen.File(path).tags
    assert (found and found["TCON"].text) == (["Drum & Bass"] if tagged else None)
    restore_genre(path, "wav")
    assert path.read_bytes() == data


def test_gnre_is_replaced_and_comes_back(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "m4a", 0.3)
    file = mutagen.mp4.MP4(path)
    file.tags.clear()
    file.tags._failed_atoms["gnre"] = [b"\0\0\0\x12data" + bytes(8) + b"\0\x13"]  # 19 - 1: Techno
    file.save()
    before = path.read_bytes()
    assert b"gnre" in before
    set_genre(path, "mp4", EDIT)
    assert b"gnre" not in path.read_bytes()
    assert mutagen.mp4.MP4(path).tags["\xa9gen"] == ["Drum & Bass"]
    restore_genre(path, "mp4")
    assert read_tags(path, "mp4").genres == ("Techno",)
    assert path.read_bytes() == before


def test_flac_keeps_pictures_unknown_blocks_and_invalid_text(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    data = path.read_bytes()
    comments = [b"TITLE=\xff\xfe", b"SERATO_MARKERS_V2=abc", b"no equals sign", b"genre=Rock", b"Genre=Pop"]
    vendor = (
        b"\3\0\0\0ven"
        + len(comments).to_bytes(4, "little")
        + b"".join(len(c).to_bytes(4, "little") + c for c in comments)
    )
    blocks = [(4, vendor), (6, b"picture?"), (2, b"APPLdata"), (99, b"unknown"), (1, bytes(500))]
    raw = b"".join(bytes([t | 0x80 * (i == 4)]) + len(d).to_bytes(3, "big") + d for i, (t, d) in enumerate(blocks))
    at, last = 42, bool(data[4] & 0x80)
    while not last:
        last, at = bool(data[at] & 0x80), at + 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    path.write_bytes(before := data[:4] + b"\0" + data[5:42] + raw + data[at:])
    others = other_fields(path, "flac")
    set_genre(path, "flac", EDIT)
    now = path.read_bytes()
    assert (
        now.index(b"TITLE=\xff\xfe")
        < now.index(b"no equals sign")
        < now.index(b"GENRE=Drum & Bass")
        < now.index(b"INDEXER_GENRE={")
    )
    assert len(now) < len(before) + 1200
    assert changed_fields(others, other_fields(path, "flac")) == []
    restore_genre(path, "flac")
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", WRITABLE)
def test_other_fields_sees_one_changed_field(tmp_path: Path, name: str) -> None:
    path = write_audio(tmp_path / name, name, 0.3)
    container = container_of(path)
    before = other_fields(path, container)
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    if isinstance(file.tags, mutagen.id3.ID3):
        file.tags.add(mutagen.id3.TPE4(encoding=3, text="Remixer"))
    else:
        file.tags["Title" if name != "m4a" and name != "alac" else "\xa9nam"] = "Other"
    file.save()
    assert changed_fields(before, other_fields(path, container))


def test_a_second_write_keeps_the_first_original(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    file = mutagen.flac.FLAC(path)
    file["genre"] = ["Rock", "Pop"]
    file.save()
    before = path.read_bytes()
    set_genre(path, "flac", EDIT)
    set_genre(path, "flac", GenreEdit(("Techno",), "techno", 0.5, "m"))
    found = read_tags(path, "flac")
    assert (found.genres, found.original_genres, found.genre_is_ours) == (("Techno",), ("Rock", "Pop"), True)
    restore_genre(path, "flac")
    assert path.read_bytes() == before


def test_a_genre_the_user_set_after_us_becomes_the_original(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    set_genre(path, "flac", EDIT)
    file = mutagen.flac.FLAC(path)
    file["genre"] = ["Breakcore"]
    file.save()
    assert not read_tags(path, "flac").genre_is_ours
    set_genre(path, "flac", EDIT)
    assert read_tags(path, "flac").original_genres == ("Breakcore",)


def test_undo_survives_a_rewrite_by_another_program(tmp_path: Path, mp3_audio: bytes) -> None:
    """mutagen turns the tag into v2.4 and sorts it: the genre comes back as text in the new version."""
    path = tmp_path / "a.mp3"
    path.write_bytes(id3_tag([frame(b"TCON", b"\0Rock"), frame(b"TIT2", b"\0x")]) + mp3_audio)
    set_genre(path, "mp3", EDIT)
    mutagen.id3.ID3(path).save()
    restore_genre(path, "mp3")
    found = read_tags(path, "mp3")
    assert (found.genres, found.ours, found.title) == (("Rock",), None, "x")


def test_nothing_recorded_nothing_restored(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    with pytest.raises(WriteRefusedError, match="no earlier genre"):
        restore_genre(path, "flac")


@pytest.mark.parametrize("container", ["aac", "other"])
def test_containers_without_writable_tags_say_so(tmp_path: Path, container: str) -> None:
    path = write_audio(tmp_path / "a", "aac", 0.3)
    with pytest.raises(UnsupportedError, match="cannot be written"):
        set_genre(path, container, EDIT)


text = st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    genre=text,
    title=text,
    old=st.none() | text,
    major=st.sampled_from([3, 4]),
    padding=st.integers(0, 900),
    v1=st.booleans(),
    ape=st.booleans(),
)
def test_any_text_in_any_mix_of_tags_is_written_and_undone(
    tmp_path: Path,
    mp3_audio: bytes,
    genre: str,
    title: str,
    old: str | None,
    major: int,
    padding: int,
    v1: bool,
    ape: bool,
) -> None:
    def words(value: str) -> bytes:
        return b"\1" + value.encode("utf-16") if major == 3 else b"\3" + value.encode()

    frames = [frame(b"TIT2", words(title), major=major)] + ([frame(b"TCON", words(old), major=major)] if old else [])
    path = tmp_path / "a.mp3"
    end = (ape_tag({"Genre": b"Rock", "x-odd": title.encode()}) if ape else b"") + (
        b"TAG" + bytes(124) + b"\x11" if v1 else b""
    )
    path.write_bytes(before := id3_tag(frames, major=major, padding=padding) + mp3_audio + end)
    others = other_fields(path, "mp3")
    set_genre(path, "mp3", GenreEdit((genre,), "house", 0.5, "m"))
    assert other_fields(path, "mp3") == others
    assert standing_genres(path, "mp3")["id3"] == named(genre)
    assert mp3_audio in path.read_bytes()
    restore_genre(path, "mp3")
    assert path.read_bytes() == before
