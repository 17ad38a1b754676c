"""Symbolic links in music folders lead nowhere: no watcher, scan, undo or correction follows one."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from indexer.errors import ConfigError, DeferredError
from indexer.files.audio.identity import Stat
from indexer.files.children.worker import Worker
from indexer.files.links import THROUGH_A_LINK, is_file, is_folder, look, open_file, open_folder, resolved
from indexer.files.tags.copies import remove_copies, remove_leftovers
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.write import commit, edit_to_json, prepare, settle
from indexer.files.walk import walk
from indexer.library.store import Store
from indexer.scan.difference import look_at
from tests.helpers.contents import contents, genre_of, rows
from tests.helpers.daemons import Watching
from tests.helpers.limits import LIMITS
from tests.helpers.synth import write_audio


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder outside all music folders, with a recording that no genre was given."""
    folder = tmp_path / "secret"
    folder.mkdir()
    write_audio(folder / "a", "flac", 1.0, seed=7)
    return folder


def link(at: Path, to: Path) -> Path:
    at.symlink_to(to)
    return at


# ---- opening and resolving


def test_a_path_is_opened_only_where_no_link_stands_in_it(tmp_path, secret):
    plain = secret / "a.flac"
    through = link(tmp_path / "link", secret) / "a.flac"
    last = link(tmp_path / "last.flac", plain)
    os.close(open_file(str(plain)))
    os.close(open_folder(str(secret)))
    assert (is_file(str(plain)), is_folder(str(secret)), look(str(plain)).st_size) == (True, True, plain.stat().st_size)
    for opening, path in ((open_file, through), (open_folder, through.parent), (open_file, last), (look, through)):
        with pytest.raises(OSError, check=lambda e: e.errno == errno.ELOOP):
            opening(str(path))
    assert not any(map(is_file, (str(through), str(last))))
    assert not is_folder(str(through.parent))
    with pytest.raises(FileNotFoundError):
        open_file(str(secret))
    with pytest.raises(NotADirectoryError):
        open_folder(str(plain / "x"))


def test_to_pass_a_folder_the_right_to_search_it_is_enough(tmp_path, secret, monkeypatch):
    """Home folders are often closed to listing: mode 711."""
    opened = []
    real = os.open

    def note(path, flags, *args, **kwargs):
        opened.append(flags)
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", note)
    os.close(open_folder(str(secret)))
    if hasattr(os, "O_PATH"):
        assert all(flags & os.O_PATH for flags in opened)


def test_a_person_may_name_a_folder_through_links(tmp_path, secret, monkeypatch):
    named = link(tmp_path / "music", secret)
    to_bytes = os.fsencode
    assert resolved(named / "a.flac") == to_bytes(secret / "a.flac")
    assert resolved(named / "a.flac", [to_bytes(secret)]) == to_bytes(secret / "a.flac")
    assert resolved(named / ".." / "x") == to_bytes(tmp_path / "x")  # as the system: above what the link leads to
    monkeypatch.chdir(tmp_path)
    assert resolved("music/new/file") == to_bytes(secret / "new" / "file")
    link(tmp_path / "round", tmp_path / "round")
    with pytest.raises(ConfigError, match="circle"):
        resolved("round/a")


def test_a_link_inside_a_music_folder_is_not_followed_whoever_names_it(tmp_path, secret):
    music = tmp_path / "music"
    music.mkdir()
    link(music / "in", secret)
    for path in (music / "in", music / "in" / "a.flac", link(tmp_path / "way", music) / "in" / "a.flac"):
        with pytest.raises(ConfigError, match=f"in: links inside a music folder .* leads to: {secret}$"):
            resolved(path, [os.fsencode(music)])


# ---- scans


def test_a_scan_below_a_music_folder_follows_no_link_that_is_named(quick_cli, music_folder, secret):
    before = contents(secret)
    quick_cli("scan", music_folder)
    link(music_folder / "in", secret)
    link(music_folder / "in.flac", secret / "a.flac")
    for named in (music_folder / "in" / "a.flac", music_folder / "in.flac"):
        for command in (
            ("scan", named),
            ("tags", "undo", named),
            ("tags", "apply", named),
            ("correct", named, "house"),
        ):
            refused = quick_cli(*command, code=2)
            assert f"name what it leads to: {secret}" in refused.stderr
    assert quick_cli.json("scan", music_folder)["files"] == 6
    assert contents(secret) == before
    assert quick_cli.json("scan", secret / "a.flac")["tags_written"] == 1  # named by itself it is welcome


def test_a_changed_path_is_not_looked_at_through_a_link(tmp_path, music_folder, secret):
    """As the watcher names it: a link to a folder may even be called like a sound file."""
    link(music_folder / "in.mp3", secret)
    link(music_folder / "file.flac", secret / "a.flac")
    with Store(tmp_path / "library.db") as store:
        assert len(look_at(store, os.fsencode(music_folder))) == 6
        for name in ("in.mp3", "in.mp3/a.flac", "file.flac"):
            assert look_at(store, os.fsencode(music_folder / name)) == []


def test_a_watched_folder_takes_nothing_in_through_a_link(quick_cli, music_folder, secret):
    before = contents(secret)
    album = music_folder / "album"
    with Watching(quick_cli, music_folder) as watch:
        watch.until_idle()
        link(music_folder / "in.mp3", secret)
        link(music_folder / "file.flac", secret / "a.flac")
        album.rename(secret.with_name("album"))
        link(album, secret)
        shutil.copy(secret / "a.flac", music_folder / "b.flac")
        watch.until(lambda: watch.states_of(album / "wav.wav") == "missing", "the album that was moved out is missing")
        watch.until(lambda: genre_of(music_folder / "b.flac"), "the real file has its genre")
        watch.until_idle()
        assert len(watch.states()) == 7
    assert contents(secret) == before


def test_a_music_folder_that_has_become_a_link_is_offline_until_it_is_named_anew(quick_cli, scanned_music, tmp_path):
    moved = tmp_path / "moved"
    scanned_music.rename(moved)
    link(scanned_music, moved)
    assert list(walk(os.fsencode(scanned_music))) == [(os.fsencode(scanned_music), None)]
    found = quick_cli.json("scan", "--no-tags", code=1)
    assert (found["files"], found["missing"]) == (0, 6)
    assert f"{THROUGH_A_LINK}; scan the folder that it leads to: {moved}." in " ".join(found["notes"])
    again = quick_cli.json("scan", scanned_music, "--no-tags")  # a root may be named through a link
    assert (again["embedded"], again["files"]) == (0, 6)
    assert {Path(os.fsdecode(r["path"])).is_relative_to(moved) for r in rows(quick_cli, "SELECT path FROM files")} == {
        True
    }


# ---- a folder that is swapped for a link after it was scanned

EDIT = GenreEdit(("House",), "house", 0.9, "m")


def swap(folder: Path, away: Path) -> Path:
    """Move a folder away and put a link to it in its place; returns the folder where it is now."""
    folder.rename(away)
    return link(folder, away).readlink()


def test_an_undo_leads_to_nothing_outside(quick_cli, music_folder, secret):
    quick_cli("scan", music_folder)
    outside = swap(music_folder / "album", secret / "album")
    tagged = contents(outside)
    done = quick_cli.json("tags", "undo", "--all", code=1)
    assert [reason for _, reason in done["refused"]] == [THROUGH_A_LINK]
    assert len(done["restored"]) == 5
    assert contents(outside) == tagged


def test_a_reader_works_in_no_folder_behind_a_link(music_folder, secret):
    path = os.fsencode(swap(music_folder / "album", secret / "album").parent.parent / "music" / "album" / "wav.wav")
    before = contents(secret)
    worker = Worker(LIMITS)
    try:
        for call in (
            lambda: worker.call("inspect", path),
            lambda: worker.call("read_tags", path),
            lambda: worker.call("examine", path),
            lambda: list(worker.decode(path, sample_rate_hz=16_000)),
            lambda: worker.call("prepare_write", path, container="wav", edit=edit_to_json(EDIT), preserve_mtime=False),
        ):
            with pytest.raises(DeferredError, match=THROUGH_A_LINK):
                call()
        assert worker.call("inspect", os.fsencode(secret / "a.flac"))["container"] == "flac"
        assert worker._child
        deadline = time.monotonic() + 10
        while Path(f"/proc/{worker._child.pid}/cwd").readlink() != Path("/"):  # an idle reader keeps no drive busy
            assert time.monotonic() < deadline
    finally:
        worker.close()
    assert contents(secret) == before


def test_a_copy_that_was_prepared_is_not_put_in_place_behind_a_link(music_folder, secret):
    path = music_folder / "album" / "wav.wav"
    before = path.read_bytes()
    prepared = prepare(str(path), "wav", EDIT)
    dropped = []
    outside = swap(path.parent, secret / "album")
    with pytest.raises(DeferredError, match=THROUGH_A_LINK):
        commit(prepared, intend=lambda _: 7, done=lambda _: None, drop=lambda *why: dropped.append(why))
    assert dropped == [(7, THROUGH_A_LINK)]
    assert (outside / "wav.wav").read_bytes() == before


def test_nothing_is_cleaned_up_behind_a_link(music_folder, secret):
    path = music_folder / "album" / "wav.wav"
    prepared = prepare(str(path), "wav", EDIT)
    outside = swap(path.parent, secret / "album")
    there = contents(outside)
    assert settle(str(path), prepared.before, prepared.after) is None  # not known until the folder is back
    for clean in (lambda: remove_copies(str(path)), lambda: remove_leftovers(path.parent)):
        with pytest.raises(OSError, match=THROUGH_A_LINK):
            clean()
    assert contents(outside) == there
    path.parent.unlink()
    outside.rename(path.parent)
    assert settle(str(path), prepared.before, prepared.after) == "dropped"
    assert Stat.of(path) == prepared.before
