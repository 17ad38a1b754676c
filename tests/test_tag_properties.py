"""Any text in any mix of tags: promises 1 to 4 of the design hold for files built byte by byte.

Every example goes through the whole write: plan, prepare, commit, a second write, undo. Audio identity and every other
field stay; after undo the file is byte for byte what it was. The exceptions, each with its reason, are in the tests.
``HYPOTHESIS_PROFILE=deep pytest tests/test_tag_properties.py`` tries 2,000 examples a test instead of 20.
The last test is a small slice of tests/benchmarks/fuzz_tags.py with a fixed seed.
"""

import functools
import io
import os
import tempfile
from pathlib import Path

import av
import mutagen.mp4
import mutagen.oggopus
import mutagen.oggvorbis
import pytest
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from indexer.errors import WriteRefusedError
from indexer.files.audio.identity import fingerprint, sniff
from indexer.files.tags.blocks.blocks import read_exactly
from indexer.files.tags.blocks.id3 import decode_text, tag_size, to_synchsafe, unsynchronise
from indexer.files.tags.blocks.id3_genres import named
from indexer.files.tags.blocks.riff import Form
from indexer.files.tags.genre import GenreEdit, changed_fields, other_fields, parse_ours, standing_genres
from indexer.files.tags.read import Tags, clean, read_tags
from indexer.files.tags.write import commit, prepare
from indexer.scan.policy import plan
from tests.benchmarks import bench_tagwrite, fuzz_tags
from tests.helpers.deep import DEEP
from tests.helpers.synth import write_audio

bounded = settings(
    max_examples=2_000 if DEEP else 20, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

NASTY = (
    "", " ", "/", ";", "a/b", "a; b", "; ", "\0", "a\0b", "\0\0", "(17)", "17", "(4)Rock", "((", "(RX)", "\ufeffHouse",
    "\ufffeHouse", "\u202eesuoH", "\u2066a\u2069", "\x1b[31mred", "\r\n", "\ud800", "a\udfffb", "é", "日本語", "😀",
    "\x80", "ÿþ", "ÿ", "Drum & Bass", "house", "x" * 10_000, "é☃" * 5_000, "=", "a=b", '"', "\\", "{}", "[]",
    "INDEXER_GENRE", "TAG", "APETAGEX", "ID3", "\uffff",
)  # fmt: skip
nasty = st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=()), max_size=30)
policy = st.sampled_from(["fill", "replace", "append"])
room = st.sampled_from([0, 1, 3, 10, 300, 2000])
some = st.booleans()
OWN = ("genres", "ours", "original_genres")


# --- the promises -----------------------------------------------------------------------------------------------------


def write(path: Path, container: str, edit: GenreEdit | None, add: dict[str, str | None] | None = None) -> None:
    prepared = prepare(str(path), container, edit, add=add)
    assert commit(prepared, intend=lambda _: 1, done=lambda _: None, drop=lambda *_: None)


def refusal(path: Path, container: str, edit: GenreEdit) -> str:
    """Write; the reason where that is refused."""
    try:
        write(path, container, edit)
    except WriteRefusedError as error:
        return error.reason
    return ""


def may_read_otherwise(edit: GenreEdit) -> bool:
    """ID3v2 reads a number as a genre of ID3v1; a text may begin like a byte order mark; at most 50 values are read."""
    return (
        len(edit.genres) > 49
        or any(c.isdecimal() or c in "(\ufeff\ufffe" for genre in edit.genres for c in genre)
        or {"RX", "CR"} & set(edit.genres) != set()
    )


def identity(path: Path) -> str:
    with path.open("rb") as file:
        return fingerprint(file, path).audio_sha256


def others_of(found: Tags) -> dict[str, object]:
    return {name: value for name, value in found.to_json().items() if name not in OWN}


def keep_promises(data: bytes, container: str, text: str, how: str = "replace", *, exact: bool = True,
                  bare_id3v1: bool = False, joins: bool = False) -> None:  # fmt: skip
    """The whole life of a written file; ``text`` is what the user wants to read for our label.

    ``bare_id3v1``: no other tag stands, which must be refused. ``joins``: its only tag holds several genres as one
    text.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder, "a")
        path.write_bytes(data)
        with path.open("rb") as file:
            assert sniff(file) == container
        old, audio, fields = read_tags(path, container), identity(path), other_fields(path, container)
        edit = plan(old, "label " + text, text, 0.5, "m" + text, how)
        if edit is None:
            assert not clean(text) or (how == "fill" and old.genres) or clean(text) in old.genres or how == "append"
            event("nothing to write")
            return
        reason = refusal(path, container, edit)
        assert reason or not bare_id3v1
        if reason:
            event("refused")
            assert path.read_bytes() == data
            assert os.listdir(folder) == ["a"]
            reads_otherwise = may_read_otherwise(edit) or (joins and "; " in "".join(edit.genres))
            assert (
                ("does not read back" in reason and reads_otherwise)
                or ("too long" in reason and len(data) > 10_000)
                or (bare_id3v1 and "only an ID3v1 tag" in reason)
            )
            return
        found = read_tags(path, container)
        assert found.genres == edit.genres
        assert found.genre_is_ours
        assert others_of(found) == others_of(old)
        assert changed_fields(fields, other_fields(path, container)) == []
        assert identity(path) == audio
        first = found.original_genres

        again = plan(found, "another", "Another " + clean(text)[:20].strip("0123456789()"), 0.7, "m2", how)
        assert again is not None  # what we wrote is ours to write again under every policy
        mood = clean(text)[:20].strip()  # a field of a label set, with any text
        write(path, container, again, {"INDEXER_MOOD": mood} if mood else None)
        found = read_tags(path, container)
        assert found.set_fields == ({"INDEXER_MOOD": mood} if mood and found.added else {})
        assert found.original_genres == first
        assert found.genre_is_ours

        write(path, container, None)
        found = read_tags(path, container)
        assert (others_of(found), found.genres, found.ours, found.original_genres) == (
            others_of(old),
            old.genres,
            old.ours,
            old.original_genres,
        )
        assert identity(path) == audio
        if exact:
            assert path.read_bytes() == data
        else:
            assert changed_fields(fields, other_fields(path, container)) == []
        assert os.listdir(folder) == ["a"]


# --- ID3, APEv2 and ID3v1 ---------------------------------------------------------------------------------------------


def id3(
    major: int, texts: dict[str, str], padding: int = 0, *, unsync: bool = False, wide: bool = True, tail: bytes = b""
) -> bytes:
    """A tag of raw frames; texts may hold all that UTF-16 (v2.3) or UTF-8 (v2.4) can carry, lone surrogates too."""
    body = b""
    for name, text in texts.items():
        if major == 3 and wide:
            content = b"\1" + "".join(["\ufeff", text]).encode("utf-16-le", "surrogatepass")
        elif major == 3:
            content = b"\0" + text.encode("latin-1", "replace")
        else:
            content = b"\3" + text.encode("utf-8", "surrogatepass")
        if unsync and major == 4:
            content = unsynchronise(content)
        size = len(content).to_bytes(4, "big") if major == 3 else to_synchsafe(len(content))
        body += name.encode() + size + b"\0\0" + content
    body += tail + bytes(padding)
    if unsync and major == 3:
        body = unsynchronise(body)
    return b"ID3" + bytes([major, 0, 0x80 * unsync]) + to_synchsafe(len(body)) + body


def ape(items: dict[str, str]) -> bytes:
    body = b"".join(
        len(v := text.encode("utf-8", "replace")).to_bytes(4, "little") + bytes(4) + key.encode() + b"\0" + v
        for key, text in items.items()
    )

    def end(flags: int) -> bytes:
        return (
            b"APETAGEX"
            + b"".join(n.to_bytes(4, "little") for n in (2000, len(body) + 32, len(items), flags))
            + bytes(8)
        )

    return end(0xA0000000) + body + end(0x80000000)


def id3v1(genre: int, title: str = "Title") -> bytes:
    return b"TAG" + title.encode("latin-1", "replace")[:30].ljust(124, b"\0") + bytes([genre])


def says_something(v1: int | None, title: str) -> bool:
    """Whether there is an ID3v1 tag and its fields are not blank."""
    return v1 is not None and bool(id3v1(v1, title)[3:127].strip(b"\0 "))


def frame(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "big") + b"\0\0" + content  # under 128 bytes the same in both versions


foreign_frames = st.sampled_from(
    [
        b"",
        frame(b"XQQ1", b"vendor!"),
        frame(b"GEOB", b"\0a/b\0\0Serato Overview\0\1\xfe"),
        frame(b"PRIV", b"TRAKTOR4\0\1\2"),
    ]
)


@functools.cache
def audio_of(name: str) -> bytes:
    """A short file of a container; MP3 and WavPack without their tags."""
    with tempfile.TemporaryDirectory() as folder:
        data = write_audio(Path(folder, name), name, 0.15).read_bytes()
    return (
        data[tag_size(data[:10]) or 0 :]
        if name == "mp3"
        else data.partition(b"APETAGEX")[0]
        if name == "wavpack"
        else data
    )


@bounded
@given(
    text=nasty,
    title=nasty,
    old=st.none() | nasty,
    major=st.sampled_from([None, 3, 4]),
    padding=room,
    unsync=some,
    wide=some,
    tail=foreign_frames,
    v1=st.none() | st.sampled_from([0, 17, 255]),
    apes=st.none() | nasty,
    how=policy,
)
def test_mp3(text, title, old, major, padding, unsync, wide, tail, v1, apes, how):
    front = b""
    if major:
        front = id3(
            major,
            {"TIT2": title, **({} if old is None else {"TCON": old}), "COMM": "eng" + title},
            padding,
            unsync=unsync,
            wide=wide,
            tail=tail,
        )
    end = (b"" if apes is None else ape({"Title": title, "Genre": apes, "x-odd": "z"})) + (
        b"" if v1 is None else id3v1(v1, title)
    )
    keep_promises(
        front + audio_of("mp3") + end,
        "mp3",
        text,
        how,
        bare_id3v1=not front and apes is None and says_something(v1, title),
    )


@bounded
@given(text=nasty, title=nasty, old=st.none() | nasty, v1=st.none() | st.integers(0, 255), tagged=some, how=policy)
def test_wavpack(text, title, old, v1, tagged, how):
    items = {
        "Title": title,
        "SERATO_MARKERS_V2": "abc",
        **({} if old is None else {"genre": old}),
        "Cover Art (front)": "x.jpg",
    }
    data = audio_of("wavpack") + (ape(items) if tagged else b"") + (b"" if v1 is None else id3v1(v1))
    keep_promises(data, "wavpack", text, how, bare_id3v1=not tagged and v1 is not None)


# --- Vorbis comments --------------------------------------------------------------------------------------------------


def flac_block(kind: int, data: bytes, *, last: bool = False) -> bytes:
    return bytes([kind | 0x80 * last]) + len(data).to_bytes(3, "big") + data


def comments(pairs: list[tuple[str, str]]) -> bytes:
    raws = [b"someone's encoder", *(f"{key}={text}".encode("utf-8", "surrogatepass") for key, text in pairs)]
    counted = [len(raw).to_bytes(4, "little") + raw for raw in raws]
    return counted[0] + len(pairs).to_bytes(4, "little") + b"".join(counted[1:])


@functools.cache
def flac_parts() -> tuple[bytes, bytes]:
    """STREAMINFO and the frames."""
    data, at, last = audio_of("flac"), 4, 0
    while not last:
        last, at = data[at] & 0x80, at + 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    return data[8:42], data[at:]


@bounded
@example(  # an empty genre in front of another
    text="x", title="", old=[""], tagged=True, padding=None, first=False, application=False, front=True, key="GENRE",
    how="replace",
)  # fmt: skip
@given(
    text=nasty,
    title=nasty,
    old=st.lists(nasty, max_size=3),
    tagged=some,
    padding=st.none() | room,
    first=some,
    application=some,
    front=some,
    key=st.sampled_from(["GENRE", "genre", "Genre"]),
    how=policy,
)
def test_flac(text, title, old, tagged, padding, first, application, front, key, how):
    info, frames = flac_parts()
    pairs = [("TITLE", title), *((key, value) for value in old), ("SERATO_OVERVIEW", "abc"), ("title", "again")]
    blocks = [(2, b"appl" + bytes(5))] * application + [(4, comments(pairs))] * tagged
    blocks = ([(1, bytes(padding or 0))] if first else []) + blocks + ([] if padding is None else [(1, bytes(padding))])
    body = b"".join(flac_block(kind, data, last=i == len(blocks) - 1) for i, (kind, data) in enumerate(blocks))
    head = id3(3, {"TIT2": title, "TCON": "Rock"}, 10) if front else b""
    keep_promises(head + b"fLaC" + flac_block(0, info, last=not blocks) + body + frames, "flac", text, how)


@bounded
@given(
    kind=st.sampled_from(["vorbis", "opus", "oggflac"]),
    text=nasty,
    title=nasty,
    old=st.lists(nasty, max_size=3),
    padding=room,
    how=policy,
)
def test_ogg(kind, text, title, old, padding, how):
    with tempfile.NamedTemporaryFile() as file:
        file.write(audio_of(kind))
        file.flush()
        if kind != "oggflac":
            opened = {"vorbis": mutagen.oggvorbis.OggVorbis, "opus": mutagen.oggopus.OggOpus}[kind](file.name)
            valid = [value.encode("utf-8", "replace").decode() for value in (title, *old)]
            opened["title"], opened["GENRE"] = valid[:1], valid[1:]
            opened.save(padding=lambda _: padding)
        keep_promises(Path(file.name).read_bytes(), kind, text, how)


# --- MP4 --------------------------------------------------------------------------------------------------------------


@functools.cache
def mp4_audio(fast: bool) -> bytes:
    """AAC with moov behind or before the audio."""
    with tempfile.TemporaryDirectory() as folder:
        slow, path = write_audio(Path(folder, "slow"), "m4a", 0.15), Path(folder, "fast.m4a")
        if not fast:
            return slow.read_bytes()
        with (
            av.open(str(slow)) as source,
            av.open(str(path), "w", format="ipod", options={"movflags": "faststart"}) as out,
        ):
            stream = out.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(audio=0):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
        return path.read_bytes()


@bounded
@given(
    fast=some,
    tagged=some,
    text=nasty,
    title=nasty,
    old=st.lists(nasty, max_size=3),
    numbered=some,
    padding=room,
    free=some,
    how=policy,
)
def test_mp4(fast, tagged, text, title, old, numbered, padding, free, how):
    with tempfile.NamedTemporaryFile() as file:
        file.write(mp4_audio(fast) + (b"\0\0\0\x0cfree\1\2\3\4" if free else b""))
        file.flush()
        if tagged:
            opened = mutagen.mp4.MP4(file.name)
            valid = [value.encode("utf-8", "replace").decode() for value in (title, *old)]
            opened["\xa9nam"], opened["\xa9gen"] = valid[:1], valid[1:]
            opened["----:com.serato.dj:markersv2"] = [b"cue\0points"]
            if numbered:
                opened["\xa9gen"] = ["\0\x12"]
            opened.save(padding=lambda _: padding)
        data = Path(file.name).read_bytes()
    if tagged and numbered:  # a number of two bytes instead of the text
        data = data.replace(b"\xa9gen\0\0\0\x12data\0\0\0\1", b"gnre\0\0\0\x12data\0\0\0\0")
        assert b"gnre" in data
    keep_promises(data, "mp4", text, how)


# --- RIFF and IFF -----------------------------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes, order: str = "little") -> bytes:
    return name + len(data).to_bytes(4, order) + data + b"\0" * (len(data) % 2)


def info(pairs: list[tuple[str, str]]) -> bytes:
    return chunk(
        b"LIST",
        b"INFO" + b"".join(chunk(name.encode(), text.encode("utf-8", "surrogatepass") + b"\0") for name, text in pairs),
    )


def riff(chunks: list[bytes]) -> bytes:
    return b"RIFF" + (4 + len(b"".join(chunks))).to_bytes(4, "little") + b"WAVE" + b"".join(chunks)


PCM = chunk(b"fmt ", b"\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0")  # 8 bits, mono, 8 kHz


@bounded
@given(
    text=nasty,
    title=nasty,
    old=st.none() | nasty,
    old_info=st.none() | nasty,
    samples=st.integers(1_000, 1_003),
    listed=st.sampled_from(["", "before", "behind"]),
    tagged=st.sampled_from([None, 3, 4]),
    front=some,
    padding=room,
    foreign=some,
    odd_end=st.sampled_from(["", "no pad byte", "no pad byte, not counted", "header counts one more"]),
    how=policy,
)
def test_wav(text, title, old, old_info, samples, listed, tagged, front, padding, foreign, odd_end, how):
    audio = chunk(b"data", bytes(i * 7 % 256 for i in range(samples)))
    pairs = [("INAM", title), *([] if old_info is None else [("IGNR", old_info)]), ("ICMT", "c")]
    lists = [info(pairs)] if listed else []
    tag = (
        [chunk(b"id3 ", id3(tagged, {"TIT2": title, **({} if old is None else {"TCON": old})}, padding))]
        if tagged
        else []
    )
    others = [chunk(b"bext", b"odd" * 3), chunk(b"cue ", bytes(28))] if foreign else []
    before, behind = (lists, []) if listed == "before" else ([], lists)
    data = riff([PCM, *before, *(tag if front else []), *others, audio, *behind, *([] if front else tag)])
    keep_promises(ending_oddly(data, odd_end), "wav", text, how, joins=bool(lists) and not tag)


def ending_oddly(data: bytes, how: str) -> bytes:
    """A RIFF or IFF file as some writers leave its end."""
    order = "little" if data[:4] == b"RIFF" else "big"
    padded = Form(io.BytesIO(data)).chunks[-1].size % 2 == 1
    counted = len(data) - 8 + (how == "header counts one more")
    if padded and how.startswith("no pad byte"):
        data, counted = data[:-1], counted - how.endswith("not counted")
    return data[:4] + counted.to_bytes(4, order) + data[8:]


@bounded
@given(
    text=nasty,
    title=nasty,
    old=st.none() | nasty,
    frames=st.integers(500, 503),
    tagged=st.sampled_from([None, 3, 4]),
    front=some,
    padding=room,
    foreign=some,
    odd_end=st.sampled_from(["", "no pad byte", "no pad byte, not counted", "header counts one more"]),
    how=policy,
)
def test_aiff(text, title, old, frames, tagged, front, padding, foreign, odd_end, how):
    audio = chunk(b"SSND", bytes(8) + bytes(i * 5 % 256 for i in range(frames)), "big")
    common = chunk(
        b"COMM", b"\0\1" + frames.to_bytes(4, "big") + b"\0\x08" + b"\x40\x0e\xac\x44\0\0\0\0\0\0", "big"
    )  # 8 bits, mono, 44.1 kHz
    tag = (
        [chunk(b"ID3 ", id3(tagged, {"TIT2": title, **({} if old is None else {"TCON": old})}, padding), "big")]
        if tagged
        else []
    )
    others = (
        [chunk(b"NAME", b"odd", "big"), chunk(b"ANNO", title.encode("utf-8", "replace") or b"x", "big")]
        if foreign
        else []
    )
    body = b"".join([common, *(tag if front else []), *others, audio, *([] if front else tag)])
    data = b"FORM" + (4 + len(body)).to_bytes(4, "big") + b"AIFF" + body
    keep_promises(ending_oddly(data, odd_end), "aiff", text, how)


# --- the user comes after us ------------------------------------------------------------------------------------------


def user_sets_id3(path: Path, genre: str) -> None:
    """As a tagger that knows the ID3 tag alone."""
    file = mutagen.File(path)
    file.tags.add(mutagen.id3.TCON(encoding=3, text=[genre]))
    file.save()


def user_sets_text(path: Path, genre: str) -> None:
    file = mutagen.File(path)
    file.tags[{"MP4": "\xa9gen", "ASF": "WM/Genre"}.get(type(file).__name__, "genre")] = [genre]
    file.save()


@pytest.mark.parametrize("name", ["mp3", "wav", "aiff", "flac", "vorbis", "opus", "oggflac", "m4a", "wma", "wavpack"])
@settings(bounded, max_examples=200 if DEEP else 4)
@given(
    users=st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Nd", "Ps", "Pe"], exclude_characters="\ufeff\ufffe"),
        min_size=1,
        max_size=20,
    )
)
def test_a_genre_that_the_user_changed_after_us_is_the_users(tmp_path_factory, name, users):
    assume(clean(users) == users and users.casefold() not in ("house", "techno"))
    path = tmp_path_factory.mktemp("user") / "a"
    path.write_bytes(audio_of(name))
    with path.open("rb") as file:
        container = sniff(file)
    write(path, container, GenreEdit(("House",), "house", 0.9, "m"))
    (user_sets_id3 if name in ("mp3", "wav", "aiff") else user_sets_text)(path, users)
    found = read_tags(path, container)
    assert found.genres == (users,)
    assert not found.genre_is_ours
    assert plan(found, "techno", "Techno", 0.9, "m", "fill") is None
    write(path, container, plan(found, "techno", "Techno", 0.9, "m", "replace"))
    assert read_tags(path, container).original_genres == (users,)
    write(path, container, None)
    assert read_tags(path, container).genres == (users,)
    assert "House" not in [value for values in standing_genres(path, container).values() for value in values]


@pytest.mark.parametrize("tagged", [True, False], ids=["ID3v2 before us", "ID3v2 of the user"])
def test_a_second_tag_that_the_user_did_not_touch_gets_back_what_stood_before_us(tmp_path, tagged):
    path = tmp_path / "a"
    path.write_bytes(
        (id3(3, {"TIT2": "T"}) if tagged else b"") + audio_of("mp3") + ape({"Title": "T", "Genre": "Old"}) + id3v1(17)
    )
    write(path, "mp3", GenreEdit(("House",), "house", 0.9, "m"))
    assert (standing_genres(path, "mp3")["id3"] == ["House"]) == tagged
    user_sets_id3(path, "Polka")
    write(path, "mp3", plan(read_tags(path, "mp3"), "techno", "Techno", 0.9, "m", "replace"))
    write(path, "mp3", None)
    assert standing_genres(path, "mp3") == {
        "id3": ["Polka"],
        "ape": ["Old"],
        "id3v1": ["Polka"],
    }  # mutagen changes ID3v1 too


# --- what the search has found ----------------------------------------------------------------------------------------


def test_a_text_that_begins_with_a_byte_order_mark_is_read_as_it_stands():
    assert decode_text(b"\1" + "\ufeff\ufeffHouse\0\ufeff\ufeffAcid".encode("utf-16-le")) == [
        "\ufeffHouse",
        "\ufeffAcid",
    ]
    assert decode_text(b"\3" + "/\0\ufeffHouse".encode()) == ["/", "\ufeffHouse"]


def test_a_negative_size_reads_nothing(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    with path.open("rb") as file, pytest.raises(ValueError, match="claims -4 bytes"):
        read_exactly(file, 0, -4, "LIST INFO")


def test_many_genres_together_are_still_known_as_ours():
    genres = tuple(f"{n} {'x' * 100}" for n in range(40))
    ours = parse_ours(GenreEdit(genres, "l", 0.5, "m").describe())
    assert Tags(genres=genres, ours=ours).genre_is_ours


def test_something_between_the_wavpack_audio_and_its_tag_is_refused(tmp_path):
    """FFmpeg reads a stream of unknown length with such bytes at its end, but reports damage if a tag follows them."""
    path = tmp_path / "a.wv"
    path.write_bytes(audio_of("wavpack") + b"x")
    with pytest.raises(WriteRefusedError, match="between the WavPack audio and the tag"):
        write(path, "wavpack", GenreEdit(("House",), "house", 0.9, "m"))


def test_an_ogg_file_that_goes_on_with_something_else_behind_its_comments_is_refused(tmp_path):
    path = tmp_path / "a.opus"
    data = audio_of("opus")
    at = data.index(b"OggS", data.index(b"OpusTags"))
    path.write_bytes(data[:at] + data[at + 1 :])
    with pytest.raises(WriteRefusedError, match="no Ogg page follows"):
        write(path, "opus", GenreEdit(("House",), "house", 0.9, "m"))


def goes_and_comes_back(path: Path, container: str, data: bytes) -> None:
    path.write_bytes(data)
    write(path, container, GenreEdit(("House",), "house", 0.9, "m"))
    assert read_tags(path, container).genres == ("House",)
    write(path, container, None)
    assert path.read_bytes() == data


def test_zeros_behind_the_comments_of_a_flac_are_refused(tmp_path):
    info, frames = flac_parts()
    block = flac_block(4, comments([("TITLE", "t")]) + bytes(9), last=True)
    (tmp_path / "a.flac").write_bytes(b"fLaC" + flac_block(0, info) + block + frames)
    with pytest.raises(WriteRefusedError, match="the FLAC comment block holds more than comments"):
        write(tmp_path / "a.flac", "flac", GenreEdit(("House",), "house", 0.9, "m"))


def test_free_space_in_an_mp4_that_is_not_empty_stays(tmp_path):
    path = tmp_path / "a.m4a"
    path.write_bytes(mp4_audio(True))
    opened = mutagen.mp4.MP4(path)
    opened["\xa9gen"] = ["Rock"]
    opened.save(padding=lambda _: 3000)
    data = path.read_bytes()
    at = data.index(b"free", data.index(b"ilst")) + 4
    assert data[at : at + 2000] == bytes(2000)
    goes_and_comes_back(path, "mp4", data[:at] + b"what was here" + data[at + 13 :])


def test_an_ape_tag_whose_header_contradicts_its_footer_is_refused(tmp_path):
    path = tmp_path / "a.mp3"
    tag = ape({"Title": "t", "Genre": "Rock"})
    path.write_bytes(audio_of("mp3") + tag[:8] + b"\xe8\3\0\0" + tag[12:])
    with pytest.raises(WriteRefusedError, match="the header and the footer of the APE tag contradict each other"):
        write(path, "mp3", GenreEdit(("House",), "house", 0.9, "m"))


def test_the_header_of_an_ape_tag_keeps_its_own_flags(tmp_path):
    tag = ape({"Title": "t", "Genre": "Rock"})
    data = audio_of("mp3") + tag[:20] + (0xA0000001).to_bytes(4, "little") + tag[24:]
    goes_and_comes_back(tmp_path / "a.mp3", "mp3", data)


def test_zeros_behind_an_id3_tag_in_its_chunk_stay(tmp_path):
    tag = id3(3, {"TIT2": "t", "TCON": "Rock"}, 300)
    keep_promises(riff([PCM, chunk(b"data", bytes(100)), chunk(b"id3 ", tag + bytes(501))]), "wav", "House")


def test_what_follows_the_samples_of_a_dsf_file_must_be_its_tag(tmp_path):
    facts = b"".join(number.to_bytes(4, "little") for number in (1, 0, 1, 1, 2_822_400, 1, 800, 0, 4096, 0))
    samples = b"fmt " + (52).to_bytes(8, "little") + facts + b"data" + (112).to_bytes(8, "little") + bytes(100)
    path = tmp_path / "a.dsf"
    for behind, reason in ((b"", None), (b"?" * 9, "contradict")):
        size = 28 + len(samples) + len(behind)
        path.write_bytes(
            b"DSD " + (28).to_bytes(8, "little") + size.to_bytes(8, "little") + bytes(8) + samples + behind
        )
        if reason:
            with pytest.raises(WriteRefusedError, match=reason):
                write(path, "dsf", GenreEdit(("House",), "house", 0.9, "m"))
        else:
            write(path, "dsf", GenreEdit(("House",), "house", 0.9, "m"))
            assert standing_genres(path, "dsf") == {"id3": ["House"]}


def test_a_wav_without_room_below_4_gib_is_refused_before_it_is_copied(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    bench_tagwrite.sparse_wav(path, (1 << 32) - 512, tag_first=False)
    monkeypatch.setattr("indexer.files.tags.write.copy_file", None)
    with pytest.raises(WriteRefusedError, match="the format ends at 4 GiB"):
        write(path, "wav", GenreEdit(("House",), "house", 0.9, "m"))


def test_rf64_is_refused_and_not_called_damaged(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RF64" + riff([PCM, chunk(b"data", bytes(100))])[4:])
    with pytest.raises(WriteRefusedError) as error:
        write(path, "wav", GenreEdit(("House",), "house", 0.9, "m"))
    assert error.value.reason == "WAV files in the form for more than 4 GiB are not edited"


@bounded
@given(
    nasty | st.from_regex(r"(\((\d{1,3}|RX|CR)\)){0,3}\(?\(?[a-z(]{0,3}", fullmatch=True) | st.integers(0, 300).map(str)
)
def test_numbers_in_id3_genres_are_read_as_mutagen_reads_them(value):
    assume(value.isprintable() and "\0" not in value)
    assert named(value) == mutagen.id3.TCON(encoding=3, text=[value]).genres


def test_a_slice_of_the_fuzzer(tmp_path):
    """Mutated files through the real child: nothing crashes, hangs, changes audio or other tags, or stays behind."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "work").mkdir()
    fuzzer = fuzz_tags.Fuzzer(
        [*fuzz_tags.fixture_sources(), *fuzz_tags.synthesised_sources(tmp_path / "sources")], seed=7
    )
    fuzzer.run(range(300), tmp_path / "work")
    assert fuzzer.result.failures == []
    total = sum(
        (counts for counts in fuzzer.result.counts.values()), start=type(next(iter(fuzzer.result.counts.values())))()
    )
    assert total["cases"] == 300
    assert min(total["written"], total["refused"], total["unreadable"]) > 10
    assert total["child died"] == 0
    assert [reason for reason in fuzzer.result.reasons if "DIED" in reason] == []
