"""Tags beside the one that is written: several of a kind, and MP4's other forms.

What they say is read where the first is silent, a genre in them is the user's, and a write hides nothing from FFmpeg
and mutagen, which read these files without our code.
"""

import json
import os
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import av
import mutagen
import mutagen.id3
import pytest

from indexer.errors import WriteRefusedError
from indexer.files.audio.identity import sniff
from indexer.files.tags.blocks.id3 import load_front, tag_size
from indexer.files.tags.genre import refuse_other_genre
from indexer.files.tags.read import GenreEdit, Tags, read_tags
from indexer.files.tags.write import commit, prepare
from indexer.scan.policy import plan
from tests.helpers.ogg import Page, lacing_of, merged, packets_of, pages_of
from tests.helpers.synth import write_audio
from tests.helpers.tag_bytes import ape_tag, frame, id3_tag

EDIT = GenreEdit(("Drum & Bass",), "drum and bass", 0.93, "linear@12345678")
NEVER_WRITTEN = "which is never written"
HIDDEN = "a new tag beside it would hide that from other programs"


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def sound(folder: Path, name: str) -> bytes:
    return write_audio(folder / f"sound-{name}", name, 0.3).read_bytes()


# --- MP4 ----------------------------------------------------------------------------------------------------------


def atom(name: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I", 8 + len(data)) + name + data


def items(**texts: str) -> bytes:
    names = {"title": b"\xa9nam", "artist": b"\xa9ART", "genre": b"\xa9gen"}
    return atom(b"ilst", *(atom(names[name], value(text.encode())) for name, text in texts.items()))


def value(data: bytes, kind: int = 1) -> bytes:
    return atom(b"data", struct.pack(">II", kind, 0), data)


def meta(handler: bytes, *content: bytes) -> bytes:
    return atom(b"meta", bytes(4), atom(b"hdlr", bytes(8), handler, bytes(13)), *content)


def keyed(**texts: str) -> bytes:
    """A list of numbered keys as FFmpeg's use_metadata_tags writes it."""
    keys = atom(b"keys", struct.pack(">II", 0, len(texts)), *(atom(b"mdta", name.encode()) for name in texts))
    numbered = [atom(struct.pack(">I", n), value(text.encode())) for n, text in enumerate(texts.values(), 1)]
    return meta(b"mdta", keys, atom(b"ilst", *numbered))


def quicktime(text: str, language: int = 0x55C4, encoding: str = "utf-8") -> bytes:
    data = text.encode(encoding)
    return struct.pack(">HH", len(data), language) + data


def mobile(data: bytes) -> bytes:
    return bytes(4) + b"\x15\xc7" + data + b"\0"


def with_tags(data: bytes, *content: bytes) -> bytes:
    """The MP4 with these atoms at the end of moov, the last atom, in place of its udta."""
    at, end = data.rindex(b"moov") - 4, len(data)
    found = data.rfind(b"udta", at) - 4
    moov = data[at + 8 : found if found > at else end] + b"".join(content)
    return data[:at] + atom(b"moov", moov)


TEXTS = {"title": "Song", "artist": "Somebody"}
G = {"genre": "Minimal"}
OTHER_FORMS: dict[str, Callable[[dict[str, str]], list[bytes]]] = {
    "numbered keys in moov": lambda g: [keyed(**TEXTS, **g)],
    "Apple's numbered keys": lambda g: [
        keyed(**{f"com.apple.quicktime.{name}": text for name, text in (TEXTS | g).items()})
    ],
    "QuickTime": lambda g: [
        atom(b"udta", atom(b"\xa9nam", quicktime("Song")), atom(b"\xa9ART", quicktime("Somebody")),
             *(atom(b"\xa9gen", quicktime(text)) for text in g.values()), bytes(4))
    ],
    "3GP": lambda g: [
        atom(b"udta", atom(b"titl", mobile("\ufeffSong\0".encode("utf-16-be"))), atom(b"perf", mobile(b"Somebody")),
             *(atom(b"gnre", mobile(text.encode())) for text in g.values()))
    ],
    "an ID3 tag": lambda g: [
        meta(b"ID32", atom(b"ID32", bytes(4), b"\x15\xc7", id3_tag(id3_frames(g))))
    ],
    "a second udta": lambda g: [atom(b"udta", atom(b"name", b"x")), atom(b"udta", meta(b"mdir", items(**TEXTS, **g)))],
}  # fmt: skip
BESIDE: dict[str, Callable[[dict[str, str]], list[bytes]]] = {
    "numbered keys": lambda g: [keyed(**TEXTS, **g), atom(b"udta", meta(b"mdir", items(title="First")))],
    "QuickTime texts before": lambda g: [
        atom(b"udta", *(atom(b"\xa9gen", quicktime(text)) for text in g.values()),
             atom(b"\xa9ART", quicktime("Somebody")), meta(b"mdir", items(title="First")))
    ],
    "QuickTime texts behind": lambda g: [
        atom(b"udta", meta(b"mdir", items(title="First")), atom(b"\xa9ART", quicktime("Somebody")),
             *(atom(b"\xa9gen", quicktime(text)) for text in g.values()))
    ],
    "a second meta": lambda g: [
        atom(b"udta", meta(b"mdir", items(title="First")), meta(b"mdir", items(**TEXTS, **g)))
    ],
    "a second list": lambda g: [atom(b"udta", meta(b"mdir", items(title="First"), items(**TEXTS, **g)))],
}  # fmt: skip


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return sound(tmp_path_factory.mktemp("mp4"), "m4a")


@pytest.mark.parametrize("genre", [{}, G], ids=["no genre", "a genre"])
@pytest.mark.parametrize("form", OTHER_FORMS)
def test_other_forms_of_mp4_tags_are_read_and_not_hidden(
    tmp_path: Path, mp4: bytes, form: str, genre: dict[str, str]
) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(with_tags(mp4, *OTHER_FORMS[form](genre)))
    found = read_tags(path, "mp4")
    assert (found.title, found.artist, found.genres) == ("Song", "Somebody", tuple(genre.values()))
    assert_refused(path, found, HIDDEN)


@pytest.mark.parametrize("form", BESIDE)
def test_other_forms_beside_an_item_list_fill_its_gaps_and_stay_seen(tmp_path: Path, mp4: bytes, form: str) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(with_tags(mp4, *BESIDE[form]({})))
    found = read_tags(path, "mp4")
    assert (found.title, found.artist, found.genres) == ("First", "Somebody", ())
    assert_written_and_undone(path)
    path.write_bytes(with_tags(mp4, *BESIDE[form](G)))
    found = read_tags(path, "mp4")
    assert (found.title, found.artist, found.genres) == ("First", "Somebody", ("Minimal",))
    assert_refused(path, found, NEVER_WRITTEN)


@pytest.mark.parametrize("behind", [b"", meta(b"mdir", items(title="Second"))], ids=["alone", "before iTunes' list"])
def test_no_item_goes_into_a_list_of_numbered_keys(tmp_path: Path, mp4: bytes, behind: bytes) -> None:
    """FFmpeg would take the item's name for a number beyond the keys."""
    path = tmp_path / "a.m4a"
    path.write_bytes(with_tags(mp4, atom(b"udta", keyed(title="Song", **{"INDEXER x": "y"}), behind)))
    assert read_tags(path, "mp4").title == "Song"
    assert_refused(path, read_tags(path, "mp4"), "another form than iTunes' item list")


def test_keys_that_name_nothing_hide_nothing(tmp_path: Path, mp4: bytes) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(with_tags(mp4, keyed(**{"com.android.version": "12"})))
    assert_written_and_undone(path)


@pytest.mark.parametrize(
    ("raw", "title"),
    [
        (quicktime("S\u00f6ng", 0, "mac-roman"), "S\u00f6ng"),
        (quicktime("S\u00f6ng", 0), "S\u00f6ng"),
        (quicktime("S\u00f6ng", 0x55C4, "utf-16"), "S\u00f6ng"),
        (quicktime("", 0) + quicktime("Lied", 1), "Lied"),
        ("S\u00f6ng".encode(), "S\u00f6ng"),  # neither size nor language
        (value(b"Song"), "Song"),
        (b"\xff", "\u02c7"),
        (b"", None),
    ],
)
def test_quicktime_texts_in_every_coding(tmp_path: Path, mp4: bytes, raw: bytes, title: str | None) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(with_tags(mp4, atom(b"udta", atom(b"\xa9nam", raw))))
    assert read_tags(path, "mp4").title == title


def test_numbers_of_keys_and_years_of_3gp(tmp_path: Path, mp4: bytes) -> None:
    path = tmp_path / "a.m4a"
    keys = atom(b"keys", struct.pack(">II", 0, 2), atom(b"mdta", b"bpm"), atom(b"mdta", b"title"))
    listed = atom(b"ilst", atom(b"\0\0\0\1", value(struct.pack(">f", 174.5), 23)),
                  atom(b"\0\0\0\2", value("T\u00eft".encode("utf-16-be"), 2)),
                  atom(b"\0\0\0\3", value(b"beyond the keys")))  # fmt: skip
    year = atom(b"udta", atom(b"yrrc", bytes(4), struct.pack(">H", 1999)), atom(b"albm", mobile(b"Album") + b"\1"))
    path.write_bytes(with_tags(mp4, meta(b"mdta", keys, listed), year))
    found = read_tags(path, "mp4")
    assert (found.title, found.bpm, found.year, found.album) == ("T\u00eft", 174.5, 1999, "Album")


@pytest.mark.parametrize("content", [b"", atom(b"mean", bytes(4), b"x"), value(b"") + b"\0\0", value(b"caf\xe9")])
@pytest.mark.parametrize("name", [b"----", b"tmpo", b"trkn", b"gnre", b"\xa9cmt", b"covr"])
def test_an_odd_item_costs_no_other(tmp_path: Path, mp4: bytes, name: bytes, content: bytes) -> None:
    path = tmp_path / "a.m4a"
    listed = items(**TEXTS)
    path.write_bytes(with_tags(mp4, atom(b"udta", meta(b"mdir", atom(b"ilst", listed[8:], atom(name, content))))))
    found = read_tags(path, "mp4")
    assert (found.title, found.artist, found.genres) == ("Song", "Somebody", ())


@pytest.mark.parametrize("content", [atom(b"udta"), atom(b"udta", meta(b"mdir"))], ids=["udta", "meta"])
def test_empty_atoms_for_the_item_list_stay(tmp_path: Path, mp4: bytes, content: bytes) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(with_tags(mp4, content))
    assert_written_and_undone(path)


@pytest.mark.parametrize(("name", "kind"), [("wav", b"id3 "), ("wav", b"ID3 "), ("aiff", b"ID3 ")])
def test_an_empty_chunk_for_the_tag_stays(tmp_path: Path, name: str, kind: bytes) -> None:
    path = tmp_path / f"a.{name}"
    path.write_bytes(riff(sound(tmp_path, name), (kind, b""), (b"junk", b"behind")))
    assert_written_and_undone(path)


# --- several tags of one kind -------------------------------------------------------------------------------------


def id3_frames(genre: dict[str, str], major: int = 3) -> list[bytes]:
    texts = {b"TIT2": "Song", b"TPE1": "Somebody"} | ({b"TCON": genre["genre"]} if genre else {})
    return [frame(name, b"\0" + text.encode(), major=major) for name, text in texts.items()]


def appended(tag: bytes) -> bytes:
    """An ID3v2.4 tag as it stands at the end of a file: with a footer."""
    return b"ID3\4\0\x10" + tag[6:] + b"3DI\4\0\x10" + tag[6:10]


TOOL = id3_tag([frame(b"TSSE", b"\0tool")], padding=50)


def mp3_pieces(folder: Path) -> bytes:
    data = sound(folder, "mp3")
    return data[tag_size(data[:10]) or 0 :]


def riff(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    order: Literal["big", "little"] = "big" if data[:4] == b"FORM" else "little"
    added = b"".join(n + len(c).to_bytes(4, order) + c + bytes(len(c) % 2) for n, c in chunks)
    return data[:4] + (len(data) - 8 + len(added)).to_bytes(4, order) + data[8:] + added


def info(**entries: str) -> tuple[bytes, bytes]:
    raw = b"".join(
        name.encode() + struct.pack("<I", len(text) + 1) + text.encode() + b"\0" + bytes((len(text) + 1) % 2)
        for name, text in entries.items()
    )
    return b"LIST", b"INFO" + raw


def flac(data: bytes, *blocks: tuple[int, bytes]) -> bytes:
    """The FLAC with these metadata blocks behind STREAMINFO, in place of its own."""
    at, last = 4, 0
    while not last:
        last, size = data[at] & 0x80, int.from_bytes(data[at + 1 : at + 4], "big")
        at += 4 + size
    parts = [(0, data[8:42]), *blocks]
    return b"fLaC" + b"".join(
        bytes([kind | 0x80 * (number == len(parts))]) + len(content).to_bytes(3, "big") + content
        for number, (kind, content) in enumerate(parts, 1)
    ) + data[at:]  # fmt: skip


def comment(*texts: str) -> tuple[int, bytes]:
    counted = b"".join(struct.pack("<I", len(text)) + text.encode() for text in texts)
    return 4, bytes(4) + struct.pack("<I", len(texts)) + counted


def comments_of(genre: dict[str, str]) -> tuple[int, bytes]:
    return comment("TITLE=Song", "ARTIST=Somebody", *(f"GENRE={text}" for text in genre.values()))


def ogg(folder: Path, kind: str, *texts: str, serial: int = 0) -> list[Page]:
    """The pages of an Ogg file with these comments."""
    pages = [replace(page, serial=serial) for page in pages_of(sound(folder, kind))]
    packet = comment(*texts)[1]
    packet = {
        "vorbis": b"\x03vorbis" + packet + b"\1",
        "opus": b"OpusTags" + packet,
        "oggflac": b"\x84" + len(packet).to_bytes(3) + packet,
    }[kind]
    old = packets_of(pages)[1]
    behind = pages[1].body[len(old) :]
    lacing = lacing_of(packet) + pages[1].lacing[len(lacing_of(old)) :]
    return [pages[0], replace(pages[1], lacing=lacing, body=packet + behind), *pages[2:]]


def tagged(folder: Path, kind: str, genre: dict[str, str], serial: int = 0) -> list[Page]:
    texts = ["TITLE=Song", "ARTIST=Somebody", *(f"GENRE={text}" for text in genre.values())]
    return ogg(folder, kind, *texts, serial=serial)


def file_of(*pages: Page) -> bytes:
    return b"".join(page.to_bytes() for page in pages)


def two_comments(folder: Path, genre: dict[str, str]) -> bytes:
    """An Ogg FLAC file with a second comment packet."""
    first, second = ogg(folder, "oggflac", "ENCODER=tool"), tagged(folder, "oggflac", genre)[1]
    open_ended = replace(first[1], body=b"\x04" + first[1].body[1:])
    later = [replace(page, sequence=page.sequence + 1) for page in (second, *first[2:])]
    return file_of(first[0], open_ended, *later)


def at_once(folder: Path, genre: dict[str, str]) -> bytes:
    """Two multiplexed streams."""
    first, second = ogg(folder, "vorbis", "ENCODER=tool", serial=1), tagged(folder, "vorbis", genre, serial=2)
    return file_of(*merged(random.Random(1), [first, second]))


def ape_of(genre: dict[str, str]) -> bytes:
    return ape_tag({"Title": b"Song", "Artist": b"Somebody", **({"Genre": genre["genre"].encode()} if genre else {})})


def info_of(genre: dict[str, str]) -> tuple[bytes, bytes]:
    return info(INAM="Song", IART="Somebody", **({"IGNR": genre["genre"]} if genre else {}))


Maker = Callable[[Path, dict[str, str]], bytes]
# a first tag with nothing but a tool's name, and a later one with title, artist and perhaps a genre
SEVERAL: dict[str, Maker] = {
    "two ID3v2.mp3": lambda folder, g: TOOL + id3_tag(id3_frames(g)) + mp3_pieces(folder),
    "three ID3v2.mp3": lambda folder, g: TOOL + TOOL + id3_tag(id3_frames(g)) + mp3_pieces(folder),
    "zeros between.mp3": lambda folder, g: TOOL + bytes(77) + id3_tag(id3_frames(g)) + mp3_pieces(folder),
    "ID3v2 at the end.mp3": lambda folder, g: (
        TOOL + mp3_pieces(folder) + appended(id3_tag(id3_frames(g, 4), major=4)) + b"TAG" + bytes(124) + b"\xff"
    ),
    "two APEv2.mp3": lambda folder, g: mp3_pieces(folder) + ape_of(g) + ape_tag({"Tool": b"x"}),
    "APEv2 in front.mp3": lambda folder, g: ape_of(g) + mp3_pieces(folder) + ape_tag({"Tool": b"x"}),
    "two comments.flac": lambda folder, g: flac(sound(folder, "flac"), comment("ENCODER=tool"), comments_of(g)),
    "id3 and ID3.wav": lambda folder, g: riff(sound(folder, "wav"), (b"id3 ", TOOL), (b"ID3 ", id3_tag(id3_frames(g)))),
    "ID3 and id3.wav": lambda folder, g: riff(sound(folder, "wav"), (b"ID3 ", TOOL), (b"id3 ", id3_tag(id3_frames(g)))),
    "two INFO.wav": lambda folder, g: riff(sound(folder, "wav"), info(ISFT="tool"), info_of(g)),
    "two links.ogg": lambda folder, g: file_of(*ogg(folder, "vorbis", "ENCODER=tool"), *tagged(folder, "vorbis", g, 9)),
    "two links of one serial number.opus": lambda folder, g: file_of(
        *ogg(folder, "opus", "ENCODER=tool"), *tagged(folder, "opus", g)
    ),
    "three links, something between.ogg": lambda folder, g: (
        file_of(*ogg(folder, "vorbis", "ENCODER=tool"), *ogg(folder, "vorbis", serial=3))
        + bytes(77)
        + file_of(*tagged(folder, "vorbis", g, 9))
    ),
    "two streams at once.ogg": at_once,
    "two comments.oga": two_comments,
    "two ID3.aiff": lambda folder, g: riff(sound(folder, "aiff"), (b"ID3 ", TOOL), (b"ID3 ", id3_tag(id3_frames(g)))),
}
# nothing in the first tag: what other programs show would vanish behind a genre there
BARE: dict[str, Maker] = {
    "empty ID3v2.mp3": lambda folder, g: id3_tag([], padding=9) + id3_tag(id3_frames(g)) + mp3_pieces(folder),
    "only at the end.mp3": lambda folder, g: mp3_pieces(folder) + appended(id3_tag(id3_frames(g, 4), major=4)),
    "zeros in front.mp3": lambda folder, g: bytes(10) + id3_tag(id3_frames(g)) + mp3_pieces(folder),
    "empty comment.flac": lambda folder, g: flac(sound(folder, "flac"), comment(), comments_of(g)),
    "empty chunk.wav": lambda folder, g: riff(sound(folder, "wav"), (b"id3 ", b""), (b"ID3 ", id3_tag(id3_frames(g)))),
    "empty first link.ogg": lambda folder, g: file_of(*ogg(folder, "vorbis"), *tagged(folder, "vorbis", g, 9)),
    "ID3v2 in front.wv": lambda folder, g: id3_tag(id3_frames(g)) + sound(folder, "wavpack").partition(b"APETAGEX")[0],
}
# another tag that is written too: the genre goes where title and artist stand
LESSER: dict[str, Maker] = {
    "ID3v2 in front of no comment.flac": lambda folder, g: id3_tag(id3_frames(g)) + flac(sound(folder, "flac")),
    "ID3v2 in front of an empty one.flac": lambda folder, g: (
        id3_tag(id3_frames(g)) + flac(sound(folder, "flac"), comment(), (1, bytes(99)))
    ),
    "ID3v2 in front of another.flac": lambda folder, g: (
        id3_tag(id3_frames(g)) + flac(sound(folder, "flac"), comment("TITLE=Song"))
    ),
    "empty ID3v2 and APEv2.mp3": lambda folder, g: id3_tag([], padding=9) + mp3_pieces(folder) + ape_of(g),
    "empty ID3 and INFO.wav": lambda folder, g: riff(
        sound(folder, "wav"), (b"id3 ", id3_tag([], padding=9)), info_of(g)
    ),
}


def made(folder: Path, makers: dict[str, Maker], name: str, genre: dict[str, str]) -> tuple[Path, Tags]:
    path = folder / name
    path.write_bytes(makers[name](folder, genre))
    found = read_tags(path, container_of(path))
    assert (found.title, found.artist, found.genres, found.unread) == ("Song", "Somebody", tuple(genre.values()), None)
    return path, found


@pytest.mark.parametrize("name", SEVERAL)
def test_a_later_tag_of_a_kind_fills_gaps_and_its_genre_is_the_users(tmp_path: Path, name: str) -> None:
    assert_written_and_undone(made(tmp_path, SEVERAL, name, {})[0])
    assert_refused(*made(tmp_path, SEVERAL, name, G), NEVER_WRITTEN)


@pytest.mark.parametrize("name", ["mp3", "wav", "m4a", "wma"])
def test_a_genre_in_a_field_that_somebody_named_so_is_the_users(tmp_path: Path, name: str) -> None:
    path = write_audio(tmp_path / "a", name, 0.3)
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    if name in {"mp3", "wav"}:
        file.tags.add(mutagen.id3.TXXX(encoding=3, desc="Genre", text=["Minimal"]))
    else:
        key, text = {"m4a": ("----:com.apple.iTunes:GENRE", b"Minimal"), "wma": ("Genre", "Minimal")}[name]
        file.tags[key] = [text]
    file.save()
    found = read_tags(path, container_of(path))
    assert found.genres == ("Minimal",)
    assert plan(found, "label", "House", 0.9, "m", "fill") is None
    assert_refused(path, found, NEVER_WRITTEN)


@pytest.mark.parametrize("genre", [{}, G], ids=["no genre", "a genre"])
@pytest.mark.parametrize("name", BARE)
def test_a_first_tag_that_is_empty_is_left_so_when_others_speak(
    tmp_path: Path, name: str, genre: dict[str, str]
) -> None:
    assert_refused(*made(tmp_path, BARE, name, genre), HIDDEN)


@pytest.mark.parametrize("genre", [{}, G], ids=["no genre", "a genre"])
@pytest.mark.parametrize("name", LESSER)
def test_the_genre_goes_where_the_title_stands(tmp_path: Path, name: str, genre: dict[str, str]) -> None:
    path, found = made(tmp_path, LESSER, name, genre)
    assert (plan(found, "label", "House", 0.9, "m", "fill") is None) == bool(genre)
    assert_written_and_undone(path)


@pytest.mark.parametrize("known", [False, True], ids=["from an earlier version", "added since"])
def test_an_id3_tag_in_front_of_a_flac_that_the_record_does_not_tell_of(tmp_path: Path, known: bool) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(flac(sound(tmp_path, "flac"), comment("TITLE=Song"), (1, bytes(2000))))
    write(path, EDIT)
    if not known:
        file = mutagen.File(path)
        record = json.loads(file["INDEXER_ORIGINAL_GENRE"][0])
        assert record.pop("id3") == {"room": 0, "absent": True}
        file["INDEXER_ORIGINAL_GENRE"] = json.dumps(record)
        file.save()
    path.write_bytes(id3_tag(id3_frames(G), padding=500) + path.read_bytes())
    write(path, GenreEdit(("Techno",), "techno", 0.5, "m"))
    with path.open("rb") as file:
        assert load_front(file).text_of("GENRE") == ["Techno"]
    write(path, None)
    found = read_tags(path, "flac")
    assert (found.title, found.genres, found.ours) == ("Song", ("Minimal",), None)
    with path.open("rb") as file:
        assert load_front(file).text_of("GENRE") == ["Minimal"]


def test_a_second_extended_description_of_wma(tmp_path: Path) -> None:
    data = sound(tmp_path, "wma")
    guid = bytes.fromhex("40a4d0d207e3d21197f000a0c95ea850")

    def described(**texts: str) -> bytes:
        raw = b""
        for name, text in texts.items():
            key, said = (f"{word}\0".encode("utf-16-le") for word in (name.replace("_", "/"), text))
            raw += struct.pack("<H", len(key)) + key + struct.pack("<HH", 0, len(said)) + said
        return guid + struct.pack("<QH", 26 + len(raw), len(texts)) + raw

    added = described(WM_Publisher="Metalheadz") + described(WM_AlbumTitle="Album", WM_Genre="Minimal")
    total, count = struct.unpack("<QI", data[16:28])
    path = tmp_path / "a.wma"
    path.write_bytes(
        data[:16] + struct.pack("<QI", total + len(added), count + 2) + data[28:total] + added + data[total:]
    )
    found = read_tags(path, "asf")
    assert (found.record_label, found.album, found.genres) == ("Metalheadz", "Album", ("Minimal",))
    assert_refused(path, found, NEVER_WRITTEN)


def test_an_id3v1_genre_of_a_wavpack_file_is_the_users(tmp_path: Path) -> None:
    path = tmp_path / "a.wv"
    path.write_bytes(sound(tmp_path, "wavpack").partition(b"APETAGEX")[0] + b"TAG" + bytes(124) + b"\x11")
    found = read_tags(path, "wavpack")
    assert found.genres == ("Rock",)
    assert plan(found, "label", "House", 0.9, "m", "fill") is None
    assert_written_and_undone(path)


# --- what every case must hold ------------------------------------------------------------------------------------


def container_of(path: Path) -> str:
    with path.open("rb") as file:
        return sniff(file)


def write(path: Path, edit: GenreEdit | None) -> None:
    prepared = prepare(str(path), container_of(path), edit)
    commit(prepared, intend=lambda _: 1, done=lambda _: None, drop=lambda *_: None)


def assert_refused(path: Path, found: Tags, why: str) -> None:
    """The write is refused with this reason; where a genre stands, filling does not even try."""
    before = path.read_bytes()
    if found.genres:
        assert plan(found, "label", "House", 0.9, "m", "fill") is None
        with pytest.raises(WriteRefusedError, match=NEVER_WRITTEN):
            refuse_other_genre(path, container_of(path))
    with pytest.raises(WriteRefusedError, match=why):
        write(path, EDIT)
    assert path.read_bytes() == before


def assert_written_and_undone(path: Path) -> None:
    """Our genre is read back, others see all else as before, and the undo is byte for byte."""
    before, seen, found = path.read_bytes(), seen_by_others(path), read_tags(path, container_of(path))
    write(path, EDIT)
    assert seen_by_others(path) == seen
    written = read_tags(path, container_of(path))
    assert (written.title, written.artist, written.genres) == (found.title, found.artist, EDIT.genres)
    assert written.genre_is_ours
    write(path, None)
    assert path.read_bytes() == before


def seen_by_others(path: Path) -> list[dict[str, str]]:
    """All fields but the genre and ours, as FFmpeg and mutagen see them."""
    with av.open(str(path)) as file:
        ffmpeg = {**file.metadata, **file.streams[0].metadata}
    tags = mutagen.File(path).tags
    mutagens = {} if tags is None else {str(name): str(tags[name]) for name in tags.keys()}  # noqa: SIM118  # all kinds
    ours = ("GENRE", "TCON", "\xa9GEN", "IXGN", "IXOR")
    return [
        {name: text for name, text in found.items() if name.upper() not in ours and "INDEXER" not in name.upper()}
        for found in (ffmpeg, mutagens)
    ]
