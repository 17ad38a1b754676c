"""Events from real files: which are handed over and when, which are ignored, and that every loss is reported.

The clock is the test's own (``ready`` takes the time): no test waits for a file to be still, only for events to come.
"""

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from indexer.files import open_files
from indexer.files.mounts import parse_mountinfo
from indexer.files.open_files import lease_is_refused, open_for_writing
from indexer.watch import inotify
from indexer.watch.folders import RETRY_S, FolderWatcher, _sysctl

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")

PATIENCE_S = 10
START_S = 1000.0  # an hour of the test's own clock
SETTLED_S = START_S + 3


def until(condition, what="it"):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.005)
    return found


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    return folder


@pytest.fixture
def watching(root):
    """Starts watchers of the root, past their first full scan, and stops them at the end."""
    with contextlib.ExitStack() as stack:

        def start(**options):
            watcher = FolderWatcher([os.fsencode(root)], **options)
            stack.callback(watcher.stop)
            watcher.start()
            assert watcher.needs_full_scan(os.fsencode(root))
            assert watcher.ready(START_S - 500) == []
            assert watcher.problems() == []
            return watcher

        yield start


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """The names of all events that were dealt with."""
    names = []
    deal_with = FolderWatcher._named

    def record(self, root, event):
        deal_with(self, root, event)
        names.append((event.event_type, event.src_path))

    monkeypatch.setattr(FolderWatcher, "_named", record)
    monkeypatch.setattr(FolderWatcher, "heard", names, raising=False)
    return names


def barrier(watcher):
    """Wait until all events up to now were dealt with; a root's come in order, and nobody cares for a text file."""
    for root in watcher._roots:
        marker = os.path.join(os.fsdecode(root), f"barrier{len(watcher.heard)}.txt")
        with open(marker, "w"):
            pass
        until(lambda marker=marker: ("closed", marker) in watcher.heard, "the last event")
        os.unlink(marker)


def named(watcher, *paths):
    barrier(watcher)
    assert [p for p in paths if not watcher.is_waiting(os.fsencode(p))] == []


def handed(watcher, start_s=START_S):
    """What a caller gets at once, and once everything was still for long enough."""
    barrier(watcher)
    return [os.fsdecode(p) for p in watcher.ready(start_s)], [os.fsdecode(p) for p in watcher.ready(start_s + 3)]


def sync(watcher, root, name="sentinel.mp3"):
    """Make one more file, whose events come last."""
    (root / name).write_bytes(b"x")
    named(watcher, root / name)
    return str(root / name)


def test_a_new_file_is_handed_over_once_when_it_is_still(watching, root):
    watcher = watching()
    assert not watcher.wait(0)
    (root / "a.mp3").write_bytes(b"music")
    assert watcher.wait(PATIENCE_S)
    named(watcher, root / "a.mp3")
    assert watcher.ready(START_S) == []
    assert watcher.ready(START_S + 1.9) == []
    assert watcher.ready(START_S + 2.1) == [os.fsencode(root / "a.mp3")]
    assert watcher.ready(START_S + 99) == []
    assert not watcher.is_waiting(os.fsencode(root / "a.mp3"))


def test_a_slow_writer_is_waited_for_by_its_changes_and_by_its_open_file(watching, root):
    watcher = watching()
    path = root / "slow.flac"
    with path.open("wb", buffering=0) as f:
        named(watcher, path)
        for second in range(0, 30, 3):
            f.write(b"x" * 1000)
            assert watcher.ready(START_S + second) == []
        assert watcher.ready(START_S + 100) == []  # nothing was written for long, but the file is open
        assert watcher.ready(START_S + 200) == []
    sync(watcher, root)
    assert handed(watcher, START_S + 300) == ([], sorted([str(root / "sentinel.mp3"), str(path)]))


def test_a_reader_keeps_nobody_waiting(watching, root):
    watcher = watching()
    path = root / "a.mp3"
    path.write_bytes(b"x")
    with path.open("rb"):
        named(watcher, path)
        assert handed(watcher) == ([], [str(path)])


def test_where_leases_do_not_tell_open_files_do(watching, root, monkeypatch):
    monkeypatch.setattr(open_files, "lease_is_refused", lambda path: None)
    watcher = watching()
    written, still = root / "a.mp3", root / "b.mp3"
    still.write_bytes(b"x")
    with written.open("wb"):
        named(watcher, written, still)
        assert handed(watcher) == ([], [str(still)])
    assert handed(watcher, START_S + 100) == ([], [str(written)])


def test_lease_and_open_files_agree(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x")
    key = {(path.stat().st_dev, path.stat().st_ino)}
    assert lease_is_refused(os.fsencode(path)) is False
    assert open_for_writing(key) == set()
    for mode in ("ab", "r+b"):
        with path.open(mode):
            assert lease_is_refused(os.fsencode(path)) is True
            assert open_for_writing(key) == key
    with path.open("rb"):
        assert lease_is_refused(os.fsencode(path)) is False
        assert open_for_writing(key) == set()
    assert lease_is_refused(os.fsencode(tmp_path / "not there")) is None


def test_moved_in_linked_replaced_and_renamed_from_a_download(watching, root, tmp_path):
    watcher = watching()
    for name in ("in.mp3", "link.mp3", "new.mp3", "done.mp3.part"):
        (tmp_path / name).write_bytes(b"x")
    (root / "old.mp3").write_bytes(b"old")
    named(watcher, root / "old.mp3")
    handed(watcher, START_S - 100)
    os.rename(tmp_path / "in.mp3", root / "in.mp3")
    os.link(tmp_path / "link.mp3", root / "link.mp3")
    os.replace(tmp_path / "new.mp3", root / "old.mp3")
    (root / "done.mp3.part").write_bytes(b"x")
    os.rename(root / "done.mp3.part", root / "done.mp3")
    expected = [root / n for n in ("done.mp3", "in.mp3", "link.mp3", "old.mp3")]
    named(watcher, *expected)
    assert handed(watcher) == ([], [str(p) for p in expected])


def test_what_is_gone_is_handed_over_at_once_and_a_move_names_both(watching, root):
    watcher = watching()
    for name in ("a.mp3", "b.mp3"):
        (root / name).write_bytes(b"x")
    named(watcher, root / "a.mp3", root / "b.mp3")
    assert len(handed(watcher, START_S - 100)[1]) == 2
    (root / "a.mp3").unlink()
    (root / "b.mp3").rename(root / "B.MP3")
    named(watcher, root / "a.mp3", root / "b.mp3", root / "B.MP3")
    assert handed(watcher) == ([str(root / "a.mp3"), str(root / "b.mp3")], [str(root / "B.MP3")])


def test_a_case_only_rename_where_both_names_lead_to_the_file_names_the_folder(watching, root, monkeypatch):
    watcher = watching()
    (root / "cd").mkdir()
    (root / "cd" / "a.mp3").write_bytes(b"x")
    named(watcher, root / "cd")
    sync(watcher, root / "cd")
    handed(watcher, START_S - 100)
    monkeypatch.setattr(os.path, "lexists", lambda path: True)  # as a file system does that regards no case
    (root / "cd" / "a.mp3").rename(root / "cd" / "A.mp3")
    named(watcher, root / "cd")
    assert handed(watcher) == ([], [str(root / "cd")])


def test_a_folder_is_handed_over_once_for_all_below_it(watching, root, tmp_path):
    watcher = watching()
    for folder in (tmp_path / "album", tmp_path / "album" / "cd1", tmp_path / "album" / "cd2"):
        folder.mkdir()
        (folder / "x.mp3").write_bytes(b"x")
    os.rename(tmp_path / "album", root / "album")
    named(watcher, root / "album")
    sync(watcher, root)
    assert not watcher.is_waiting(os.fsencode(root / "album" / "cd1" / "x.mp3"))
    assert handed(watcher) == ([], [str(root / "album"), str(root / "sentinel.mp3")])
    (root / "album" / "cd2" / "late.mp3").write_bytes(b"x")  # it is watched all the way down
    named(watcher, root / "album" / "cd2" / "late.mp3")


def test_a_folder_waits_until_nothing_happens_below_it(watching, root):
    watcher = watching()
    (root / "album").mkdir()
    named(watcher, root / "album")
    cd = root / "album" / "cd1"
    cd.mkdir()
    for second in range(5):
        (cd / f"{second}.mp3").write_bytes(b"x")
        named(watcher, root / "album", cd / f"{second}.mp3")
        assert os.fsencode(root / "album") not in watcher.ready(START_S + second)
    assert not watcher.is_waiting(os.fsencode(cd))
    assert os.fsencode(root / "album") in watcher.ready(START_S + 10)


def test_a_file_still_written_below_a_handed_over_folder_is_known_to_wait(watching, root):
    watcher = watching()
    (root / "album").mkdir()
    with (root / "album" / "a.mp3").open("wb"):
        named(watcher, root / "album", root / "album" / "a.mp3")
        assert handed(watcher) == ([], [str(root / "album")])
        assert watcher.is_waiting(os.fsencode(root / "album" / "a.mp3"))


def test_a_folder_moved_out_is_gone_and_one_renamed_names_both(watching, root, tmp_path):
    watcher = watching()
    for name in ("out", "before"):
        (root / name).mkdir()
        (root / name / "x.mp3").write_bytes(b"x")
    named(watcher, root / "out", root / "before")
    sync(watcher, root)
    handed(watcher, START_S - 100)
    os.rename(root / "before", root / "after")
    os.rename(root / "out", tmp_path / "out")
    named(watcher, root / "before", root / "after", root / "out")
    assert handed(watcher) == ([str(root / "before"), str(root / "out")], [str(root / "after")])
    (root / "after" / "y.mp3").write_bytes(b"x")
    named(watcher, root / "after" / "y.mp3")


@pytest.mark.filterwarnings("ignore:Callback with id")  # the module's own filter is not in force in a test
def test_a_folder_moved_out_and_back_in_is_watched(watching, root, tmp_path):
    watcher = watching()
    (root / "a").mkdir()
    named(watcher, root / "a")
    os.rename(root / "a", tmp_path / "a")
    named(watcher, root / "a")
    assert handed(watcher) == ([str(root / "a")], [])
    (tmp_path / "a" / "elsewhere.mp3").touch()
    os.rename(tmp_path / "a", root / "b")
    named(watcher, root / "b")
    assert handed(watcher, START_S + 10)[1] == [str(root / "b")]
    (root / "b" / "here.mp3").touch()
    named(watcher, root / "b" / "here.mp3")


def watches():
    """How many folders this process watches, as the kernel counts them."""
    return sum(info.read_text().count("inotify wd:") for info in Path("/proc/self/fdinfo").iterdir() if info.exists())


def test_ignored_names_wake_nobody(watching, root, tmp_path):
    watcher = watching(ignore=["*demo*", "Stems"])
    (tmp_path / "full").mkdir()
    os.rename(tmp_path / "full", root / ".Trash")
    for folder in (".git", "@eaDir", "#Recycle", "Stems"):
        (root / folder / "sub").mkdir(parents=True)
        (root / folder / "sub" / "x.mp3").write_bytes(b"x")
    for name in (".a.mp3.1234.indexer-tmp", "a.indexer-tmp", "._a.mp3", "cover.jpg", "a demo.mp3", "mp3", "a.mp3.part"):
        (root / name).write_bytes(b"x")
    last = sync(watcher, root)
    assert handed(watcher) == ([], [last])
    assert watcher.problems() == []
    assert watches() == 1  # nor do their folders use up the system's watches


def test_names_of_any_bytes(watching, root):
    watcher = watching()
    names = [b"\xff\xfe.mp3", b"new\nline.mp3", b"-rf.mp3", "NFC é.mp3".encode(), "NFD e\u0301.mp3".encode()]
    paths = [os.path.join(os.fsencode(root), n) for n in names]
    for path in paths:
        with open(path, "wb"):
            pass
    named(watcher, *paths)
    watcher.ready(START_S)
    assert watcher.ready(SETTLED_S) == sorted(paths)


def test_our_own_write_is_dropped_and_a_later_one_by_somebody_else_is_not(watching, root):
    left_behind = []
    watcher = watching(is_ours=lambda path, stat: (path, stat.st_ino, stat.st_mtime_ns) in left_behind)
    path, copy = root / "a.mp3", root / ".a.mp3.0.indexer-tmp"
    copy.write_bytes(b"edited")
    left_behind.append((os.fsencode(path), copy.stat().st_ino, copy.stat().st_mtime_ns))
    os.replace(copy, path)
    named(watcher, path)
    assert handed(watcher) == ([], [])
    assert not watcher.is_waiting(os.fsencode(path))
    path.write_bytes(b"somebody's own")
    named(watcher, path)
    assert handed(watcher, START_S + 100) == ([], [str(path)])


def test_an_event_while_it_is_handed_over_is_not_lost(watching, root):
    path = root / "a.mp3"

    def is_ours(path, _):
        if not again:
            again.append(path)
            with open(path, "ab") as f:
                f.write(b"more")
            until(lambda: next(iter(watcher._roots.values())).waiting[path].signature is None)
        return False

    again = []
    watcher = watching(is_ours=is_ours)
    path.write_bytes(b"x")
    named(watcher, path)
    assert handed(watcher) == ([], [])
    assert handed(watcher, START_S + 10) == ([], [str(path)])


def test_a_storm_is_handed_over_whole(watching, root):
    watcher = watching()
    (root / "many").mkdir()
    named(watcher, root / "many")
    for number in range(2000):
        (root / "many" / f"{number}.mp3").touch()
    sync(watcher, root / "many")
    assert handed(watcher) == ([], [str(root / "many")])
    for number in range(2000):
        os.utime(root / "many" / f"{number}.mp3")
        with (root / "many" / f"{number}.mp3").open("ab"):
            pass
    sync(watcher, root / "many")
    assert len(handed(watcher, START_S + 100)[1]) == 2001
    assert not watcher.needs_full_scan(os.fsencode(root))


def test_too_many_paths_become_one_full_scan(watching, root):
    watcher = watching(max_waiting=50)
    for number in range(60):
        (root / f"{number}.mp3").touch()
    barrier(watcher)
    assert watcher.needs_full_scan(os.fsencode(root))
    (root / "later.mp3").touch()
    named(watcher, root / "later.mp3")
    assert len(watcher._roots[os.fsencode(root)].waiting) <= 50
    assert not watcher.needs_full_scan(os.fsencode(root))


def test_the_clock_may_be_any(watching, root):
    """Times are only compared with each other: a clock that stands still or starts below zero is as good as any."""
    watcher = watching()
    (root / "a.mp3").touch()
    named(watcher, root / "a.mp3")
    assert watcher.ready(-5e9) == []
    assert watcher.ready(-5e9) == []
    assert watcher.ready(-5e9 + 3) == [os.fsencode(root / "a.mp3")]


def test_each_file_is_handed_over_to_one_of_many_callers(watching, root, tmp_path):
    watcher = watching()
    handed_over, stop = [], threading.Event()

    def call():
        while not stop.is_set():
            handed_over.extend(watcher.ready(time.monotonic() * 1000))  # still within milliseconds
            watcher.problems()
            watcher.wait(0.001)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        for number in range(300):
            os.close(os.open(tmp_path / f"{number}.mp3", os.O_CREAT))
            os.rename(tmp_path / f"{number}.mp3", root / f"{number}.mp3")
        until(lambda: len(handed_over) >= 300, "all")
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    handed_over.extend(os.fsencode(p) for paths in handed(watcher, 1e12) for p in paths)
    assert sorted(handed_over) == sorted(os.fsencode(root / f"{number}.mp3") for number in range(300))


def test_stop_wakes_whoever_waits_and_ends_all_threads(root):
    watcher = FolderWatcher([os.fsencode(root)])
    watcher.start()
    assert watcher.needs_full_scan(os.fsencode(root))
    assert not watcher.needs_full_scan(os.fsencode(root))
    with pytest.raises(KeyError):
        watcher.needs_full_scan(os.fsencode(root.parent))
    while watcher.wait(0):
        pass
    before = threading.active_count()
    timer = threading.Timer(0.05, watcher.stop)
    timer.start()
    assert watcher.wait(PATIENCE_S)
    timer.join()
    until(lambda: threading.active_count() < before, "the end of its threads")


# ---- what may go wrong with the events themselves


def texts(watcher):
    return "\n".join(text for _, text in watcher.problems())


def recovered(watcher, root, now_s=START_S + 5000):
    """The root is watched anew and asks for one full scan; after it all is well and events come."""
    watcher.ready(now_s)
    assert watcher.needs_full_scan(os.fsencode(root))
    assert not watcher.needs_full_scan(os.fsencode(root))
    watcher.problems()  # what was lost is said once at least, in whatever order one asks
    assert watcher.problems() == []
    sync(watcher, root, "after.mp3")


def test_a_root_that_goes_is_said_and_watched_again_when_it_is_back(watching, root, tmp_path):
    watcher = watching()
    (root / "a.mp3").touch()
    named(watcher, root / "a.mp3")
    root.rename(tmp_path / "away")
    assert watcher.ready(START_S) == []  # the root's health decides what becomes of its files
    assert "is the drive mounted?" in texts(watcher)
    assert watcher.needs_full_scan(os.fsencode(root))
    assert "is the drive mounted?" in texts(watcher)
    (tmp_path / "away").rename(root)
    recovered(watcher, root, START_S + 1)


def test_a_root_that_is_deleted_and_made_again(watching, root, heard):
    watcher = watching()
    observer = watcher._roots[os.fsencode(root)].observer
    root.rmdir()
    until(lambda: ("deleted", str(root)) in heard, "the last event")
    until(lambda: not all(e.is_alive() for e in observer.emitters), "the end of the emitter")
    assert not watcher.is_waiting(os.fsencode(root))  # handed over as gone, all its files would be missing too
    root.mkdir()  # perhaps with the inode number of the former
    assert watcher.ready(START_S) == []
    recovered(watcher, root)


def test_a_root_that_is_not_there_at_the_start(tmp_path):
    root = tmp_path / "later"
    watcher = FolderWatcher([os.fsencode(root)])
    watcher.start()
    try:
        assert "is not there" in texts(watcher)
        root.mkdir()
        recovered(watcher, root, START_S)
    finally:
        watcher.stop()


def test_a_queue_overflow_is_said_and_answered_by_a_full_scan(watching, root, monkeypatch):
    """The kernel's own overflow record: the reader waits while more happens than the queue holds."""
    reader = inotify._Reader
    gate = threading.Event()
    gate.set()
    read = reader.read_events
    monkeypatch.setattr(reader, "read_events", lambda self, **kw: (gate.wait(), read(self, **kw))[1])
    watcher = watching()
    (root / "a.mp3").touch()
    named(watcher, root / "a.mp3")
    gate.clear()
    paths = [os.fsencode(root / "x.mp3"), os.fsencode(root / "y.mp3")]
    for _ in range(_sysctl("fs.inotify.max_queued_events") // 4 + 100):
        for path in paths:  # by turns, as the kernel keeps only one of equal neighbours
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            os.unlink(path)
    gate.set()
    until(lambda: "dropped events" in texts(watcher), "the overflow")
    assert "sysctl fs.inotify.max_queued_events=" in texts(watcher)
    watcher.ready(START_S)
    assert "dropped events" in texts(watcher)
    assert watcher.needs_full_scan(os.fsencode(root))
    assert "dropped events" in texts(watcher)
    assert watcher.problems() == []
    sync(watcher, root, "after.mp3")


def test_a_reader_that_dies_of_watchdogs_own_fault_is_replaced(watching, root, tmp_path, recwarn):
    """Its watch of a folder that was moved out outlives the folder that took its name: a KeyError ends the thread."""
    watcher = watching()
    path = os.fsencode(root)
    reader = watcher._roots[path].observer.reader
    (root / "a").mkdir()
    named(watcher, root / "a")
    os.rename(root / "a", tmp_path / "a")
    sync(watcher, root, "1.mp3")
    (root / "a").mkdir()
    sync(watcher, root, "2.mp3")
    (root / "a").rmdir()
    (tmp_path / "a").rmdir()
    until(lambda: not reader.is_alive(), "the end of the reader")
    watcher.ready(START_S)
    assert "watching stopped (KeyError" in texts(watcher)
    recovered(watcher, root)


@pytest.mark.parametrize("victim", ["emitter", "dispatcher"])
def test_any_thread_that_dies_is_noticed(watching, root, victim, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("killed")

    watcher = watching()
    observer = watcher._roots[os.fsencode(root)].observer
    (emitter,) = observer.emitters
    target, name = (emitter, "queue_events") if victim == "emitter" else (observer, "dispatch_events")
    monkeypatch.setattr(target, name, fail)
    (root / "a.mp3").touch()
    until(lambda: not (emitter if victim == "emitter" else observer).is_alive(), "its end")
    watcher.ready(START_S)
    assert "watching stopped (RuntimeError: killed); it is watched anew and needs a full scan" in texts(watcher)
    recovered(watcher, root)


def test_an_exception_in_the_handler_kills_nothing_and_is_said(watching, root, monkeypatch):
    watcher = watching()
    observer = watcher._roots[os.fsencode(root)].observer
    with monkeypatch.context() as patch:
        patch.setattr(watcher, "_note", lambda *_, **__: 1 / 0)
        (root / "a.mp3").touch()
        until(lambda: "ZeroDivisionError" in texts(watcher))
    assert observer.is_alive()
    sync(watcher, root)
    recovered(watcher, root)


def test_starts_after_losses_become_rarer(watching, root):
    watcher = watching()
    path = os.fsencode(root)
    starts, now_s = [], START_S
    for _ in range(1500):
        watcher._lose(watcher._roots[path], "lost again")
        watcher.ready(now_s)
        if watcher.needs_full_scan(path):
            starts.append(now_s)
        now_s += 1
    assert starts[1] - starts[0] >= 10
    assert starts[-1] - starts[-2] > 300
    assert len(starts) < 12


def refusing(error, folder):
    """inotify_add_watch as it is, but for one folder."""
    import ctypes

    from watchdog.observers import inotify_c

    add = inotify_c.inotify_add_watch

    def refuse(fd, path, mask):
        if path == os.fsencode(folder):
            ctypes.set_errno(error)
            return -1
        return add(fd, path, mask)

    return inotify_c, "inotify_add_watch", refuse


def test_the_watch_limit_in_a_new_subfolder_is_said_with_the_remedy(watching, root, monkeypatch):
    watcher = watching()
    with monkeypatch.context() as patch:
        patch.setattr(*refusing(errno.ENOSPC, root / "deep" / "er"))
        (root / "deep" / "er").mkdir(parents=True)
        named(watcher, root / "deep")
        until(lambda: "limit" in texts(watcher))
        text = texts(watcher)
        assert f"not watched, {root / 'deep' / 'er'}: the system's limit of inotify watches is reached" in text
        assert f"sudo sysctl fs.inotify.max_user_watches={max(2 * (now := limit()), 524_288)} (now {now})" in text
        assert watcher.needs_full_scan(os.fsencode(root))
        watcher.ready(START_S)
        assert not watcher.needs_full_scan(os.fsencode(root))
        watcher.ready(START_S + RETRY_S + 1)  # tried again from time to time, with a scan for what was missed
        assert "limit" in texts(watcher)
        assert watcher.needs_full_scan(os.fsencode(root))
        watcher.ready(START_S + RETRY_S + 2)
    recovered(watcher, root, START_S + 2 * RETRY_S + 10)


def limit():
    return _sysctl("fs.inotify.max_user_watches")


@pytest.mark.parametrize(("error", "text"), [
    (errno.ENOSPC, "limit of inotify watches"), (errno.EACCES, "Permission denied"), (errno.ENOMEM, "Cannot allocate"),
])  # fmt: skip
def test_a_root_that_is_refused_is_said_and_tried_again(root, monkeypatch, error, text):
    watcher = FolderWatcher([os.fsencode(root)])
    before = threading.active_count()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(*refusing(error, root))
            watcher.start()
            assert text in texts(watcher)
            assert len(watcher.problems()) == 1
            until(lambda: threading.active_count() == before, "the end of its threads")
            watcher.ready(START_S)
        recovered(watcher, root, START_S + RETRY_S + 1)
    finally:
        watcher.stop()


def test_no_inotify_instance_is_said_with_the_remedy(root, monkeypatch):
    from watchdog.observers import inotify_c

    def refuse():
        import ctypes

        ctypes.set_errno(errno.EMFILE)
        return -1

    monkeypatch.setattr(inotify_c, "inotify_init", refuse)
    watcher = FolderWatcher([os.fsencode(root)])
    watcher.start()
    assert "fs.inotify.max_user_instances=" in texts(watcher)
    assert "ulimit -n" in texts(watcher)
    watcher.stop()


def test_a_folder_that_may_not_be_read_is_said_once_and_costs_no_scans(root, monkeypatch):
    monkeypatch.setattr(*refusing(errno.EACCES, root / "private"))
    (root / "private").mkdir()
    watcher = FolderWatcher([os.fsencode(root)])
    watcher.start()
    try:
        assert f"not watched, {root / 'private'}: Permission denied" in texts(watcher)
        assert watcher.needs_full_scan(os.fsencode(root))
        for second in range(0, 3000, 100):
            watcher.ready(START_S + second)
        assert not watcher.needs_full_scan(os.fsencode(root))
        sync(watcher, root)
    finally:
        watcher.stop()


def test_a_network_drive_below_the_root_is_said_and_may_come_and_go(root, monkeypatch):
    text = b"""1 0 0:1 / / rw - ext4 a rw
2 1 0:2 / %s/auto rw - autofs b rw
%d 1 0:3 / %s/auto rw - ext4 c rw
%d 1 0:4 / %s/nas rw - nfs d rw
"""
    path = os.fsencode(root)
    numbers = iter(range(10, 100))

    def mounts():
        return parse_mountinfo(text % (path, next(numbers), path, next(numbers), path))

    monkeypatch.setattr("indexer.watch.folders.read_mounts", mounts)
    watcher = FolderWatcher([path])
    watcher.start()
    try:
        (problem,) = watcher.problems()
        assert problem[1].startswith(f"{root}/nas: nfs is a network file system")
        assert watcher.needs_full_scan(path)
        watcher.ready(START_S)
        assert not watcher.needs_full_scan(path)
    finally:
        watcher.stop()


REAL_LIMIT = """
import os, sys, time
from indexer.watch.folders import FolderWatcher
root = sys.argv[1].encode()
open("/proc/sys/user/max_inotify_watches", "w").write("10")
watcher = FolderWatcher([root])
watcher.start()
for n in range(30):
    os.mkdir(root + b"/%d" % n)
deadline = time.monotonic() + 10
while "20 more" not in str(watcher.problems()) and time.monotonic() < deadline:
    time.sleep(0.01)
print(watcher.problems()[0][1])
watcher.stop()
"""

UNMOUNT = """
import os, subprocess, sys
from indexer.watch.folders import FolderWatcher
root = sys.argv[1].encode()
below = root + b"/usb"
os.mkdir(below)
watcher = FolderWatcher([root])
watcher.start()
assert watcher.needs_full_scan(root)
now = 0

def tick(name):
    global now
    now += 1
    watcher.ready(now)
    print(name, watcher.needs_full_scan(root), [text for _, text in watcher.problems()])

def mount(where):
    subprocess.run(["mount", "-t", "tmpfs", "none", where], check=True)

tick("start")
mount(below)
tick("below")
open(below + b"/a.mp3", "w").close()
while not watcher.is_waiting(below + b"/a.mp3"):
    watcher.wait(1)
tick("heard")
mount(root)
tick("over")
subprocess.run(["umount", root], check=True)
tick("back")
watcher.stop()
"""


def in_namespace(flags, script, root):
    if subprocess.run(["unshare", flags, "true"], capture_output=True, check=False).returncode:
        pytest.skip(f"unshare {flags} is refused here")
    done = subprocess.run(["unshare", flags, sys.executable, "-c", script, str(root)],
                          capture_output=True, text=True, check=False, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_systems_real_watch_limit(root):
    out = in_namespace("-Ur", REAL_LIMIT, root)
    assert "and 20 more: the system's limit of inotify watches is reached" in out  # 10 of 31 folders are watched
    assert "sudo sysctl user.max_inotify_watches=524288 (now 10)" in out


def test_drives_that_are_mounted_and_unmounted_while_watching(root):
    lines = in_namespace("-Urm", UNMOUNT, root).splitlines()
    assert lines == ["start False []", "below True []", "heard False []", "over True []", "back True []"]
