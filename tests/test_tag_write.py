"""The atomic tag write: the promise of the design for every container, and all that can happen between its steps."""

import errno
import fcntl
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import mutagen
import mutagen.id3
import numpy as np
import pytest

from indexer.errors import DeferredError, FileError, ReadError, UnsupportedError, WriteRefusedError
from indexer.files.audio.identity import Stat, fingerprint, sniff
from indexer.files.tags import write as writer
from indexer.files.tags.blocks.blocks import Block
from indexer.files.tags.blocks.id3 import tag_size, to_synchsafe
from indexer.files.tags.copies import TEMP_SUFFIX, remove_leftovers, temp_path_of
from indexer.files.tags.genre import GenreEdit, IndexerGenre, changed_fields, other_fields, set_genre
from indexer.files.tags.read import Tags, read_tags
from indexer.files.tags.write import Prepared, commit, edit_from_json, edit_to_json, prepare, settle
from indexer.scan.policy import plan
from tests.helpers.synth import CONTAINERS, write_audio

FIXTURE = Path(__file__).parents[2] / "shared" / "tag-fixture"
EDIT = GenreEdit(("Drum & Bass",), "drum and bass", 0.93, "linear@12345678")
WRITABLE = [name for name in CONTAINERS if name != "aac"]


class Journal:
    """Callbacks for commit that keep what they were told."""

    def __init__(self, at_intent: Callable[[], None] = lambda: None) -> None:
        self.calls: list[str] = []
        self.at_intent = at_intent

    def intend(self, prepared: Prepared) -> int:
        self.calls.append("intend")
        self.at_intent()
        return 7

    def done(self, write_id: int) -> None:
        self.calls.append(f"done {write_id}")

    def drop(self, write_id: int, reason: str) -> None:
        self.calls.append(f"drop {write_id}: {reason}")

    def commit(self, prepared: Prepared) -> bool:
        return commit(prepared, intend=self.intend, done=self.done, drop=self.drop)


def container_of(path: Path) -> str:
    with path.open("rb") as file:
        return sniff(file)


def write(path: Path, edit: GenreEdit | None = EDIT, **options: bool) -> Prepared:
    prepared = prepare(str(path), container_of(path), edit, **options)
    assert Journal().commit(prepared)
    return prepared


def pcm(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray().ravel() for frame in file.decode(audio=0)])


def independent_genre(path: Path) -> list[str]:
    """The genre as mutagen's own guess of the class reads it."""
    found = mutagen.File(path)
    if isinstance(found.tags, mutagen.id3.ID3):
        return list(found.tags["TCON"].genres)
    values = found.tags[{"MP4": "\xa9gen", "ASF": "WM/Genre"}.get(type(found).__name__, "Genre")]
    return [str(value) for value in (values if isinstance(values, list) else [values])]


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(TEMP_SUFFIX)]


# --- the promise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITABLE)
def test_write_and_undo_keep_audio_and_give_back_every_byte(tmp_path: Path, name: str) -> None:
    """Audio bytes are never changed; every genre we wrote can be undone, also without the database."""
    path = write_audio(tmp_path / name, name, 0.6)
    before, sound, container = path.read_bytes(), pcm(path), container_of(path)
    prepared = write(path)
    assert independent_genre(path) == ["Drum & Bass"]
    assert np.array_equal(pcm(path), sound)
    found = read_tags(path, container)
    assert found.ours == IndexerGenre("Drum & Bass", "drum and bass", 0.93, "linear@12345678")
    assert Stat.of(path) == prepared.after
    undone = write(path, None)
    assert path.read_bytes() == before
    assert (undone.before_genres, undone.after_genres) == (("Drum & Bass",), ())
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", WRITABLE)
def test_a_users_genre_and_tags_come_back(tmp_path: Path, name: str) -> None:
    """No tag other than the genre and our own fields is ever changed."""
    path = write_audio(tmp_path / name, name, 0.3)
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    if isinstance(file.tags, mutagen.id3.ID3):
        file.tags.add(mutagen.id3.TCON(encoding=3, text=["House", "Acid"]))
        file.tags.add(mutagen.id3.APIC(encoding=3, mime="image/png", type=3, desc="", data=b"\x89PNG" * 999))
        file.tags.add(mutagen.id3.GEOB(encoding=0, mime="a/b", desc="Serato Markers_", data=b"\xff\xfb\0" * 99))
    else:
        key = {"mp4": ("\xa9gen", "\xa9nam"), "asf": ("WM/Genre", "Title")}.get(container_of(path), ("Genre", "Title"))
        file.tags[key[0]], file.tags[key[1]] = ["House", "Acid"], ["Título ☃"]
    file.save()
    before, container = path.read_bytes(), container_of(path)
    others, old = other_fields(path, container), read_tags(path, container)
    write(path)
    assert read_tags(path, container).original_genres == ("House", "Acid")
    assert changed_fields(others, other_fields(path, container)) == []
    write(path, None)
    assert read_tags(path, container) == old
    assert path.read_bytes() == before


@pytest.mark.skipif(not FIXTURE.is_dir(), reason="the folder of odd files is not there")
def test_every_odd_file_is_written_and_undone_or_left_alone(tmp_path: Path) -> None:
    counts = {"written": 0, "refused": 0}
    for source in sorted(p for p in FIXTURE.rglob("*") if p.is_file()):
        path = tmp_path / source.name
        shutil.copyfile(source, path)
        before, container = path.read_bytes(), container_of(path)
        try:
            prepared = prepare(str(path), container, EDIT)
        except FileError:
            assert path.read_bytes() == before, source
            counts["refused"] += 1
        else:
            old = read_tags(path, container)
            with path.open("rb") as file:
                identity = fingerprint(file, path)
            Journal().commit(prepared)
            assert read_tags(path, container).genres == EDIT.genres
            write(path, None)
            assert read_tags(path, container) == old
            with path.open("rb") as file:
                assert fingerprint(file, path) == identity, source
            counts["written"] += 1
        assert leftovers(tmp_path) == []
        path.unlink()
    assert counts["written"] > 300


@pytest.mark.parametrize("name", ["m4a", "alac"])
def test_mp4_audio_behind_the_tags_is_found_again(tmp_path: Path, name: str) -> None:
    """moov before mdat, as the web wants it: when the tags grow, every chunk offset moves along."""
    path = tmp_path / "fast.m4a"
    with (
        av.open(str(write_audio(tmp_path / "slow", name, 1.0))) as source,
        av.open(str(path), "w", format="ipod", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    before, sound = path.read_bytes(), pcm(path)
    assert before.index(b"moov") < before.index(b"mdat")
    write(path, GenreEdit(("House",), "house", 0.5, "m" * 3000))
    assert len(path.read_bytes()) > len(before) + 3000
    assert np.array_equal(pcm(path), sound)
    write(path, None)
    assert path.read_bytes() == before


# --- verification -----------------------------------------------------------------------------------------------------


def _spoil_title(path: str) -> None:
    file = mutagen.File(path)
    file["title"] = "spoiled"
    file.save()


def _spoil_audio(path: str) -> None:
    data = bytearray(Path(path).read_bytes())
    data[-100] ^= 1
    Path(path).write_bytes(data)


def _spoil_genre(path: str) -> None:
    set_genre(path, "flac", GenreEdit(("Polka",), "x", 0.5, "m"))


@pytest.mark.parametrize(("spoil", "reason"), [
    (_spoil_title, "other tags would change: .*TITLE"),
    (_spoil_audio, "same audio"),
    (_spoil_genre, "does not read back"),
])  # fmt: skip
def test_an_edit_that_went_wrong_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[str], None], reason: str
) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.5)
    real = set_genre

    def wrong(copy: str, container: str, edit: GenreEdit) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("indexer.files.tags.write.set_genre", real)
            real(copy, container, edit)
            spoil(copy)

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("indexer.files.tags.write.set_genre", wrong)
        with pytest.raises(WriteRefusedError, match=reason):
            prepare(str(path), "flac", EDIT)
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == []


def test_a_copy_whose_other_tags_read_differently_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their bytes are the same, but a parser may guess otherwise what they mean."""
    path = write_audio(tmp_path / "a", "mp3", 0.5)
    before = path.read_bytes()

    def guess(name: str, container: str) -> Tags:
        found = read_tags(name, container)
        return replace(found, album_artist="A" if name == str(path) else None)

    monkeypatch.setattr("indexer.files.tags.write.read_tags", guess)
    with pytest.raises(WriteRefusedError, match="other tags would read differently: album_artist"):
        prepare(str(path), "mp3", EDIT)
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == []


# --- refusal ----------------------------------------------------------------------------------------------------------


def refused(path: Path, reason: str, error: type[FileError] = WriteRefusedError, container: str | None = None) -> None:
    before = path.read_bytes()
    with pytest.raises(error, match=reason):
        prepare(str(path), container or container_of(path), EDIT)
    assert path.read_bytes() == before
    assert leftovers(path.parent) == []


def with_id3(path: Path, *, claimed_extra: int = 0, padding: bytes = b"", major: int = 3) -> None:
    data = path.read_bytes()
    audio = data[tag_size(data[:10]) or 0 :]
    body = (b"TT2\0\0\2\0x" if major == 2 else b"TIT2\0\0\0\2\0\0\0x") + padding
    path.write_bytes(b"ID3" + bytes([major, 0, 0]) + to_synchsafe(len(body) + claimed_extra) + body + audio)


def test_an_overstated_id3_size_is_refused(tmp_path: Path) -> None:
    """mutagen itself would take 20,000 bytes of audio for padding and drop them."""
    path = write_audio(tmp_path / "a", "mp3", 3.0)
    with_id3(path, claimed_extra=20_000)
    refused(path, "padding|damaged|MPEG")


@pytest.mark.parametrize(("change", "reason"), [
    ({"padding": b"\0\0hidden\0\0"}, "padding of the ID3 tag is not empty"),
    ({"claimed_extra": -3, "padding": bytes(3)}, ""),
    ({"padding": b"\0" * 9 + b"x", "claimed_extra": -1}, "MPEG frame"),
    ({"major": 2}, "2.2"),
])  # fmt: skip
def test_id3_tags_that_look_damaged_are_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = write_audio(tmp_path / "a", "mp3", 0.5)
    with_id3(path, **change)
    if reason:
        refused(path, reason)
    else:  # zeros behind the tag are harmless: some writers leave them
        write(path)


def test_a_piped_wav_is_refused(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "wav", 0.3)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44:])
    refused(path, "contradict", (WriteRefusedError, ReadError))


@pytest.mark.parametrize("name", ["wav", "aiff"])
@pytest.mark.parametrize("off_by", [-40, 2, 8, 10_000])
def test_a_form_of_another_length_than_the_file_is_refused(tmp_path: Path, name: str, off_by: int) -> None:
    path = write_audio(tmp_path / name, name, 0.3)
    data = path.read_bytes()
    path.write_bytes(data[:4] + (len(data) - 8 + off_by).to_bytes(4, "little" if name == "wav" else "big") + data[8:])
    refused(path, ".", FileError)


@pytest.mark.parametrize("name", ["mp3", "vorbis", "m4a", "wav", "wma"])
def test_a_cut_file_is_left_alone(tmp_path: Path, name: str) -> None:
    path = write_audio(tmp_path / name, name, 0.5)
    container = container_of(path)
    path.write_bytes(path.read_bytes()[:700])
    refused(path, ".", FileError, container)


def test_links_and_read_only_files_are_refused(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    (tmp_path / "link.flac").symlink_to(path)
    refused(tmp_path / "link.flac", "symbolic link")
    path.chmod(0o444)
    refused(path, "read-only")
    path.chmod(0o644)
    os.link(path, tmp_path / "other.flac")
    refused(path, "2 hard links")


def test_an_ogg_page_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "opus", 0.3)
    data = bytearray(path.read_bytes())
    data[data.index(b"OpusTags") + 14] ^= 1
    path.write_bytes(data)
    refused(path, "checksum")


def test_unwritable_containers_are_unsupported(tmp_path: Path) -> None:
    refused(write_audio(tmp_path / "a", "aac", 0.3), "cannot be written", UnsupportedError)


# --- system errors ----------------------------------------------------------------------------------------------------


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["write", "fsync", "open"])
@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, DeferredError),
        (errno.EDQUOT, DeferredError),
        (errno.EROFS, WriteRefusedError),
        (errno.EIO, DeferredError),
    ],
)
def test_system_errors_leave_the_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, error: type[FileError]
) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    monkeypatch.setattr("indexer.files.tags.copies.share_blocks", lambda *_: False)
    before, container = path.read_bytes(), container_of(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        with pytest.raises(
            error,
            match="disk full"
            if number in (errno.ENOSPC, errno.EDQUOT)
            else "read-only"
            if number == errno.EROFS
            else "could not be written",
        ):
            prepare(str(path), container, EDIT)
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == []


def test_free_space_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    refused(path, "disk full", DeferredError)


# --- what is kept of the file -----------------------------------------------------------------------------------------


def test_permissions_owner_attributes_and_wanted_times_are_kept(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    path.chmod(0o640)
    os.utime(path, ns=(10**18, 10**18))
    try:
        os.setxattr(path, "user.rating", b"5")
        kept = True
    except OSError:
        kept = False
    owner = (1234, 4321) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(path, *owner)
    write(path, preserve_mtime=True)
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns) == (0o640, *owner, 10**18)
    assert not kept or os.getxattr(path, "user.rating") == b"5"
    write(path, None)
    assert path.stat().st_mtime_ns > 10**18


def test_the_longest_name_is_no_obstacle(tmp_path: Path) -> None:
    path = write_audio(tmp_path / ("ä" * 125 + ".flac"), "flac", 0.3)
    write(path)
    assert leftovers(tmp_path) == []


def test_a_name_that_is_not_text_is_no_obstacle(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n-rf.flac"))
    shutil.copyfile(write_audio(tmp_path / "a", "flac", 0.3), path)
    prepared = prepare(os.fsencode(path), "flac", EDIT)
    assert Prepared.from_json(json.loads(json.dumps(prepared.to_json())), prepared.path) == prepared
    assert Journal().commit(prepared)


# --- between the steps ------------------------------------------------------------------------------------------------


def test_the_order_is_copy_sync_intent_rename_sync_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    journal = Journal(lambda: order.append("intend"))
    for module, name in ((os, "fsync"), (writer, "exchange")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, real=real, **o: (order.append(name), real(*a, **o))[1])
    prepared = prepare(str(write_audio(tmp_path / "a", "flac", 0.3)), "flac", EDIT)
    journal.commit(prepared)
    assert [*order, *journal.calls[1:]] == ["fsync", "intend", "exchange", "fsync", "done 7"]


@pytest.mark.parametrize("when", ["prepared", "announced"])
def test_a_file_changed_meanwhile_keeps_the_users_content(tmp_path: Path, when: str) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)

    def user() -> None:
        path.write_bytes(b"the user's new content")

    prepared = prepare(str(path), "flac", EDIT)
    journal = Journal(user if when == "announced" else lambda: None)
    if when == "prepared":
        user()
    with pytest.raises(DeferredError, match="changed while"):
        journal.commit(prepared)
    assert path.read_bytes() == b"the user's new content"
    assert journal.calls[-1].startswith("drop 7: changed while")
    assert leftovers(tmp_path) == []


def test_a_vanished_file_is_not_made_again(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    prepared = prepare(str(path), "flac", EDIT)
    path.unlink()
    with pytest.raises(DeferredError, match="vanished"):
        Journal().commit(prepared)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="leases are a Linux thing")
def test_a_file_open_for_writing_elsewhere_is_left_for_later(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    before = path.read_bytes()
    prepared = prepare(str(path), "flac", EDIT)
    with path.open("r+b"), pytest.raises(DeferredError, match="open for writing"):
        Journal().commit(prepared)
    assert path.read_bytes() == before
    write(path)


def test_a_reader_keeps_the_old_bytes(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    before = path.read_bytes()
    with path.open("rb") as player:
        write(path)
        assert player.read() == before


def test_a_journal_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    before = path.read_bytes()
    prepared = prepare(str(path), "flac", EDIT)
    with pytest.raises(ZeroDivisionError):
        Journal(lambda: 1 // 0).commit(prepared)  # type: ignore[arg-type,return-value]
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == []


def test_settle_tells_the_three_ends_apart(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    prepared = prepare(str(path), "flac", EDIT)
    assert leftovers(tmp_path)
    assert settle(os.fsencode(path), prepared.before, prepared.after) == "dropped"
    assert leftovers(tmp_path) == []
    prepared = prepare(str(path), "flac", EDIT)
    os.replace(prepared.temp_path, path)
    assert settle(str(path), prepared.before, prepared.after) == "done"
    path.write_bytes(b"other")
    assert settle(str(path), prepared.before, prepared.after) == "superseded"
    path.unlink()
    assert settle(str(path), prepared.before, prepared.after) == "superseded"


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a", "flac", 0.3)
    prepared = prepare(str(path), "flac", EDIT)
    (tmp_path / "mine.indexer-tmp").write_bytes(b"no dot: the user's")
    assert remove_leftovers(tmp_path) == [prepared.temp_path]
    assert sorted(os.listdir(tmp_path)) == [path.name, "mine.indexer-tmp"]


def _die_at(number: int, path: Path, container: str, journal: Path) -> None:
    """In a child: one whole write that ends at the number-th step that changes anything on disk."""
    steps = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == number:
                os._exit(77)
            return real(*args, **options)

        return call

    for name in ("write", "fsync", "replace", "unlink", "utime", "fchmod"):
        setattr(os, name, counted(getattr(os, name)))
    writer.exchange = counted(writer.exchange)
    opened = os.open
    created = counted(opened)
    os.open = lambda path, flags, *args, **how: (created if flags & os.O_CREAT else opened)(path, flags, *args, **how)
    Block.write = counted(Block.write)  # type: ignore[method-assign]

    def intend(prepared: Prepared) -> int:
        journal.write_text(json.dumps(prepared.to_json()))
        counted(lambda: None)()
        return 1

    def done(_: int) -> None:
        counted(lambda: None)()
        journal.unlink()

    commit(prepare(str(path), container, EDIT), intend=intend, done=done, drop=lambda *_: None)
    os._exit(0)


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork without threads in the way")
@pytest.mark.parametrize("name", ["mp3", "m4a", "wav"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_step_the_file_is_wholly_old_or_wholly_new(tmp_path: Path, name: str) -> None:
    """After a crash at any instant each file is wholly old or wholly new, and the next start settles the rest."""
    path = write_audio(tmp_path / name, name, 0.2)
    before, container, journal = path.read_bytes(), container_of(path), tmp_path / "journal"
    prepare(str(path), container, EDIT)
    after = Path(temp_path_of(str(path))).read_bytes()
    ends = []
    for number in range(1, 60):
        path.write_bytes(before)
        if (child := os.fork()) == 0:
            try:
                _die_at(number, path, container, journal)
            finally:
                os._exit(99)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 77)
        assert path.read_bytes() in (before, after)
        if journal.exists():
            prepared = Prepared.from_json(json.loads(journal.read_text()), str(path))
            state = settle(prepared.path, prepared.before, prepared.after)
            assert (state == "done") == (path.read_bytes() == after)
            ends.append(state)
            journal.unlink()
        remove_leftovers(tmp_path)
        assert leftovers(tmp_path) == []
        if code == 0:
            break
    assert code == 0
    assert number > 8
    assert {"done", "dropped"} <= set(ends)


# --- the plan ---------------------------------------------------------------------------------------------------------


def planned(found: Tags, policy: str, text: str = "Techno") -> tuple[str, ...] | None:
    edit = plan(found, "techno", text, 0.9, "m", policy)
    return None if edit is None else edit.genres


def by_us(*genres: str, wrote: str | None = None, original: tuple[str, ...] = ()) -> Tags:
    return Tags(genres=genres, ours=IndexerGenre(wrote or "; ".join(genres), "x", 0.9, "m"), original_genres=original)


@pytest.mark.parametrize(("policy", "found", "expected"), [
    ("fill", Tags(), ("Techno",)),
    ("fill", Tags(genres=("House",)), None),
    ("fill", by_us("House"), ("Techno",)),
    ("fill", by_us("Techno"), None),
    ("fill", by_us("Breakcore", wrote="House"), None),
    ("replace", Tags(genres=("House",)), ("Techno",)),
    ("replace", Tags(genres=("Techno",)), None),
    ("append", Tags(genres=("House", "acid")), ("House", "acid", "Techno")),
    ("append", Tags(genres=("TECHNO", "House")), None),
    ("append", by_us("House", "Trance", original=("House",)), ("House", "Techno")),
    ("append", by_us("A", "B", wrote="A", original=("A",)), ("A", "B", "Techno")),
    ("off", Tags(), None),
])  # fmt: skip
def test_policies(policy: str, found: Tags, expected: tuple[str, ...] | None) -> None:
    assert planned(found, policy) == expected


def test_nothing_to_say_is_not_written() -> None:
    assert planned(Tags(), "replace", " \0 ") is None


def test_an_edit_crosses_a_process_border_unchanged() -> None:
    assert edit_from_json(json.loads(json.dumps(edit_to_json(EDIT)))) == EDIT


@pytest.mark.parametrize("name", ["mp3", "flac", "m4a", "wav", "wma", "wavpack"])
def test_append_keeps_the_users_values_and_stays_ours(tmp_path: Path, name: str) -> None:
    path = write_audio(tmp_path / name, name, 0.3)
    container = container_of(path)
    set_genre(path, container, GenreEdit(("House", "Acid"), "house", 1.0, "m"))
    edit = plan(Tags(genres=("House", "Acid")), "techno", "Techno", 0.9, "m", "append")
    write(path, edit)
    found = read_tags(path, container)
    assert found.genres == ("House", "Acid", "Techno")
    assert found.genre_is_ours
