"""Ogg files of any page layout: a write changes the comment packet alone, and the undo gives back every byte."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import mutagen.oggvorbis
import pytest

from indexer.errors import WriteRefusedError
from indexer.files.audio.identity import sniff
from indexer.files.tags.blocks import ogg_pages
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.read import clean, read_tags
from indexer.files.tags.write import commit, prepare
from tests.helpers import ogg
from tests.helpers.ogg import Page
from tests.helpers.synth import write_audio

SERIAL = 7
FULL = 65_025  # bytes of packets on a page, at most
SEGMENTS = (1, 2, 16, 17, 18, 34, 200, 250, 251, 252, 253, 254, 255, 256, 260, 509, 510, 511, 600)
EDIT = GenreEdit(("Drum & Bass",), "drum and bass", 0.93, "m")

Part = tuple[list[bytes], list[int]]  # packets, and the segments on each of their pages


def write(path: Path, edit: GenreEdit | None) -> None:
    with path.open("rb") as file:
        container = sniff(file)
    prepared = prepare(str(path), container, edit)
    commit(prepared, intend=lambda _: 1, done=lambda _: None, drop=lambda *_: None)


def segments(packets: Sequence[bytes]) -> int:
    return sum(len(ogg.lacing_of(packet)) for packet in packets)


def cut(total: int, size: Callable[[], int]) -> list[int]:
    counts = []
    while total:
        counts.append(min(size(), total))
        total -= counts[-1]
    return counts


def comments(size: int, *fields: bytes) -> bytes:
    """A comment list of ``size`` bytes, or of as few as the fields need."""
    listed = [b"TITLE=t", *fields]
    filler = size - sum(4 + len(field) for field in listed) - 18
    listed.insert(1, b"FILLER=" + b"x" * max(0, filler - 7))
    return b"\x06\0\0\0vendor" + len(listed).to_bytes(4, "little") + b"".join(
        len(field).to_bytes(4, "little") + field for field in listed
    )  # fmt: skip


def packets(rng: random.Random, kind: str, body: bytes, padding: bytes) -> tuple[bytes, list[bytes], list[bytes]]:
    """The first packet, the other headers, and audio that no decoder would take."""
    rate = (48_000).to_bytes(4, "little")
    audio = [rng.randbytes(rng.randrange(800)) for _ in range(rng.randrange(1, 20))]
    if kind == "vorbis":
        first = b"\x01vorbis" + bytes(4) + b"\x02" + rate + bytes(12) + b"\xb8\x01"
        setup = b"\x05vorbis" + rng.randbytes(rng.choice((10, 247, 248, 4000)))
        return first, [b"\x03vorbis" + body + b"\x01" + padding, setup], [b"\0" + packet for packet in audio]
    if kind == "opus":
        return (
            b"OpusHead\x01\x02\x38\x01" + rate + bytes(3),
            [b"OpusTags" + body + padding],
            [b"\xfc" + p for p in audio],
        )
    if kind == "speex":
        numbers = (1, 80, 16_000, 1, 4, 1, 1 << 32 - 1, 320, 0, 1, 0, 0, 0)
        first = b"Speex   " + bytes(20) + b"".join(number.to_bytes(4, "little") for number in numbers)
        return first, [body + rng.choice((b"", b"\x01")) + padding], [b"\xfc" + p for p in audio]
    info = b"\x10\0\x10\0" + bytes(6) + (44_100 << 44 | 1 << 41 | 15 << 36 | 9).to_bytes(8, "big") + bytes(16)
    block = b"\x04" + len(body + padding).to_bytes(3, "big") + body + padding
    return b"\x7fFLAC\x01\0\0\x02fLaC\0\0\0\x22" + info, [block, b"\x81\0\0\x02ab"], [b"\xff\xf8" + p for p in audio]


def parts(rng: random.Random, kind: str, *, is_first: bool) -> list[Part]:
    """The packets of a stream, and how they lie on pages: each on its own, headers together, or all together.

    Only the first stream of a file may have a genre: one in another would be the user's, and nothing be written.
    """
    size = 255 * rng.choice(SEGMENTS) + rng.choice((-1, 0, 1, rng.randrange(-200, 200)))
    padding = bytes(rng.choice((0, 0, 1, 300, 2000)))
    fields = (b"ARTIST=a", b"genre=House")[: rng.randrange(3 if is_first else 2)]
    first, headers, audio = packets(rng, kind, comments(size - len(padding), *fields), padding)
    groups = rng.choice(([headers, audio], [[header] for header in headers] + [audio], [headers + audio]))
    page = rng.choice((lambda: 17, lambda: 255, lambda: 1, lambda: rng.randrange(1, 256), lambda: rng.randrange(1, 9)))
    return [([first], [segments([first])]), *((group, cut(segments(group), page)) for group in groups)]


def comments_end(own: Sequence[Page]) -> int:
    """The number of the page on which a stream's comment packet ends."""
    return next(n for n, page in enumerate(own) if n and any(size < 255 for size in page.lacing))


def link(rng: random.Random, kind: str, *, is_first: bool) -> list[Page]:
    """A stream, in some links with odd numbers behind the headers, and in some beside another stream."""
    pages = ogg.stream(SERIAL, parts(rng, kind, is_first=is_first), sequence=rng.choice((0, 0, 5)))
    if rng.random() < 0.3:
        pages = [pages[0], *(replace(page, granule=rng.choice((7, ogg.NO_PACKET_ENDS))) for page in pages[1:])]
    if rng.random() < 0.3 and comments_end(pages) < len(pages) - 1:
        pages[-1] = replace(pages[-1], sequence=(1 << 32) - 1, flags=pages[-1].flags & ~ogg.LAST)
    if rng.random() < 0.3:
        other = [rng.randbytes(3000) for _ in range(5)]
        theora = [([b"\x80theora"], [1]), (other, cut(segments(other), lambda: rng.randrange(1, 256)))]
        second = rng.choice((theora, parts(rng, "vorbis", is_first=False)))
        pages = ogg.merged(rng, [pages, ogg.stream(SERIAL + 1, second)])
    return pages


def left_alone(data: bytes) -> tuple[list[Page], list[bytes], list[Page]]:
    """Pages of other streams and links; packets of the first stream but its comments; its pages behind, unnumbered."""
    pages = ogg.pages_of(data)
    assert not any(page.wrong for page in pages)
    assert sum(27 + len(page.lacing) + len(page.body) for page in pages) == len(data)
    end = next((n for n, p in enumerate(pages) if n and p.serial == SERIAL and p.flags & ogg.FIRST), len(pages))
    own = [page for page in pages[:end] if page.serial == SERIAL]
    first, _, *others = ogg.packets_of(own)
    foreign = [page for n, page in enumerate(pages) if n >= end or page.serial != SERIAL]
    return foreign, [first, *others], [replace(page, sequence=0) for page in own[comments_end(own) + 1 :]]


@pytest.mark.parametrize("kind", ["vorbis", "opus", "speex", "oggflac"])
@pytest.mark.parametrize("seed", range(12))
def test_a_write_changes_the_comments_alone_and_its_undo_gives_back_every_byte(tmp_path, kind, seed):
    rng = random.Random(f"{kind} {seed}")
    pages = [*link(rng, kind, is_first=True), *(link(rng, kind, is_first=False) if rng.random() < 0.4 else [])]
    data = b"".join(page.to_bytes() for page in pages)
    path = tmp_path / "a"
    path.write_bytes(data)
    before = left_alone(data)
    for edit in (EDIT, GenreEdit(("House", "Techno" * rng.choice((1, 300, 11_000))), "house", 0.9, "m")):
        write(path, edit)
        assert read_tags(path, kind).genres == tuple(map(clean, edit.genres))
        assert left_alone(path.read_bytes()) == before
    write(path, None)
    assert path.read_bytes() == data


def opus(size: int, count: int = 255, behind: int = 3, sequence: int = 0) -> list[Page]:
    """A stream whose comment packet has ``size`` bytes, on pages of ``count`` segments."""
    packet = b"OpusTags" + comments(size - 8)
    assert len(packet) == size
    first = b"OpusHead\x01\x02\x38\x01" + (48_000).to_bytes(4, "little") + bytes(3)
    audio = [([b"\xfc" * 300] * 4, [8]) for _ in range(behind)]
    pages = cut(segments([packet]), lambda: count)
    return ogg.stream(SERIAL, [([first], [1]), ([packet], pages), *audio], sequence=sequence)


def stored(path: Path, pages: Sequence[Page], end: bytes = b"") -> bytes:
    data = b"".join(page.to_bytes() for page in pages) + end
    path.write_bytes(data)
    return data


def test_pages_keep_their_number_while_the_last_one_has_room(tmp_path):
    pages = opus(3 * 17 * 255 + 10, 17)
    stored(tmp_path / "a", pages)
    write(tmp_path / "a", EDIT)
    new = ogg.pages_of((tmp_path / "a").read_bytes())
    assert [page.sequence for page in new] == [page.sequence for page in pages]
    assert [len(page.lacing) for page in new[1:4]] == [17, 17, 17]
    assert new[5:] == pages[5:]


def test_where_a_page_must_be_added_only_the_pages_of_the_same_link_count_on(tmp_path):
    data = stored(tmp_path / "a", opus(FULL - 1) + opus(FULL - 1))
    write(tmp_path / "a", EDIT)
    new = ogg.pages_of((tmp_path / "a").read_bytes())
    assert [page.sequence for page in new] == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]
    assert [page.flags for page in new[:4]] == [ogg.FIRST, 0, ogg.CONTINUED, 0]
    assert [page.granule for page in new[1:3]] == [ogg.NO_PACKET_ENDS, 0]
    assert not any(page.wrong for page in new)
    write(tmp_path / "a", None)
    assert (tmp_path / "a").read_bytes() == data


def test_a_wrong_checksum_in_the_audio_stays_wrong(tmp_path):
    pages = opus(FULL - 1)
    pages[-2] = replace(pages[-2], wrong=77)
    data = stored(tmp_path / "a", pages)
    write(tmp_path / "a", EDIT)
    assert [page.wrong for page in ogg.pages_of((tmp_path / "a").read_bytes())] == [0, 0, 0, 0, 77, 0]
    write(tmp_path / "a", None)
    assert (tmp_path / "a").read_bytes() == data


def test_numbers_of_pages_begin_again_at_nought(tmp_path):
    data = stored(tmp_path / "a", opus(FULL - 1, sequence=(1 << 32) - 3))
    write(tmp_path / "a", EDIT)
    assert [page.sequence for page in ogg.pages_of((tmp_path / "a").read_bytes())][-2:] == [1, 2]
    write(tmp_path / "a", None)
    assert (tmp_path / "a").read_bytes() == data


def test_something_behind_the_last_page_stays(tmp_path):
    data = stored(tmp_path / "a", opus(FULL - 1), b"TAG" + bytes(125))
    write(tmp_path / "a", EDIT)
    write(tmp_path / "a", None)
    assert (tmp_path / "a").read_bytes() == data


def test_pages_that_cannot_be_followed_are_refused_where_they_would_have_to_count_on(tmp_path):
    pages = opus(FULL - 1)
    broken = b"".join(page.to_bytes() for page in pages[:-1]) + b"junk" + pages[-1].to_bytes()
    (tmp_path / "a").write_bytes(broken)
    with pytest.raises(WriteRefusedError, match="those behind be renumbered: no Ogg page begins at byte"):
        write(tmp_path / "a", EDIT)
    assert (tmp_path / "a").read_bytes() == broken


@pytest.mark.parametrize(
    ("number", "change", "reason"),
    [
        (0, {"flags": 0}, "does not begin with its header"),
        (0, {"lacing": b"\x13\0"}, "does not begin with its header"),
        (1, {"flags": ogg.CONTINUED}, "contradict themselves"),
        (1, {"lacing": b"", "body": b""}, "contradict themselves"),
        (2, {"flags": 0}, "contradict themselves"),
        (2, {"flags": ogg.CONTINUED | ogg.FIRST}, "contradict themselves"),
        (2, {"wrong": 1}, "checksum"),
        (2, {"serial": 8}, "contradict themselves"),
    ],
)
def test_header_pages_that_contradict_themselves_are_refused(tmp_path, number, change, reason):
    pages = opus(20_000, 40)
    pages[number] = replace(pages[number], **change)
    stored(tmp_path / "a", pages)
    with (tmp_path / "a").open("rb") as file, pytest.raises(ValueError, match=reason):
        ogg_pages.CommentPages(file)


@pytest.mark.parametrize(
    "layout", [None, 3, [], [3], [[0, 1]], [[256, 1]], [["17", 1]], [[79, 10**12]], [[40, -2]], [[1.0, 79]]]
)
def test_a_recorded_layout_that_does_not_fit_is_passed_over(tmp_path, layout):
    stored(tmp_path / "a", opus(20_000, 40))
    with (tmp_path / "a").open("r+b") as file:
        pages = ogg_pages.CommentPages(file)
        pages.write(file, pages.packet, layout)
    assert ogg.pages_of((tmp_path / "a").read_bytes()) == opus(20_000, 40)


def test_pages_that_another_program_laid_out_anew_are_undone_all_the_same(tmp_path):
    path = write_audio(tmp_path / "a", "vorbis", 0.3)
    file = mutagen.oggvorbis.OggVorbis(path)
    file["GENRE"], file["LYRICS"] = "House", "x" * 20_000
    file.save()
    write(path, EDIT)
    file = mutagen.oggvorbis.OggVorbis(path)
    file["LYRICS"] = "y" * 90_000
    file.save()
    write(path, None)
    found = dict(mutagen.oggvorbis.OggVorbis(path).tags)
    assert found == {"genre": ["House"], "lyrics": ["y" * 90_000], "encoder": ["libsndfile"]}


def test_a_picture_of_several_megabytes_is_undone_byte_for_byte(tmp_path):
    path = write_audio(tmp_path / "a", "vorbis", 0.3)
    file = mutagen.oggvorbis.OggVorbis(path)
    file["METADATA_BLOCK_PICTURE"] = "x" * 4_000_000
    file.save()
    data = path.read_bytes()
    write(path, EDIT)
    write(path, None)
    assert path.read_bytes() == data
