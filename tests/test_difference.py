import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import ConfigError
from indexer.files.mounts import LastingInodes
from indexer.files.walk import folders_to_scan, walk
from indexer.scan.difference import Before, Difference, compare, why_offline


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def found(folder: Path, *ignore: str) -> list[str]:
    return [os.fsdecode(path)[len(str(folder)) + 1 :] for path, stat in walk(os.fsencode(folder), ignore) if stat]


def test_only_sound_files_outside_hidden_and_system_folders_are_walked(tmp_path):
    tree(
        tmp_path,
        "a.mp3",
        "B.FLAC",
        "cover.jpg",
        "a.mp3.part",
        "b.mp3~",
        "._a.mp3",
        ".hidden/x.mp3",
        "lost+found/x.mp3",
        "@eaDir/x.mp3",
        "System Volume Information/x.mp3",
        "$RECYCLE.BIN/x.mp3",
        "deep/er/c.opus",
        ".a.mp3.indexer-tmp",
        "album.mp3/d.wav",
        ".mp3",
        "Album/@tmp/x.mp3",
        "Album/#SNAPSHOT/GMT-2025/x.mp3",
        "RECYCLER/x.mp3",
        "@Recently-Snapshot/x/x.mp3",
        "__MACOSX/Album/x.mp3",
        "@Transcode/x.mp3",
        "FOUND.001/x.mp3",
        "...Like Dust/1.mp3",
        "..Two/2.mp3",
        "Album/...And Three.mp3",
        "Found.0001/1.mp3",
        "Album/@tmp.mp3",  # a file may be called like such a folder
    )
    assert found(tmp_path) == [
        "...Like Dust/1.mp3", "..Two/2.mp3", "Album/...And Three.mp3", "Album/@tmp.mp3",
        "B.FLAC", "Found.0001/1.mp3", "a.mp3", "album.mp3/d.wav", "deep/er/c.opus",
    ]  # fmt: skip


def test_what_is_left_out_is_counted(tmp_path):
    tree(
        tmp_path, "a.mp3", "._a.mp3", ".DS_Store", ".hidden/1.mp3", ".hidden/2.mp3", "@eaDir/3.mp3", "demo.mp3", "x.txt"
    )
    for name in ("link.mp3", "link to a folder", ".hidden link.mp3", "demo link.mp3"):
        (tmp_path / name).symlink_to("a.mp3")
    left_out = Counter()
    assert len(list(walk(os.fsencode(tmp_path), ["demo*"], left_out=left_out))) == 1
    assert left_out == {"hidden": 3, "system": 1, "ignored": 2, "link": 2}


def test_the_users_patterns_leave_out_files_and_folders(tmp_path):
    tree(tmp_path, "a.mp3", "demo 1.mp3", "samples/kick.wav", "x/samples/hat.wav", "x/b.mp3")
    assert found(tmp_path, "demo*", "samples") == ["a.mp3", "x/b.mp3"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "a.b", "a-", "a0", "A", "é", "z z", "a!"]), min_size=1, max_size=4), max_size=25
    )
)
def test_the_walk_is_in_bytewise_order_of_the_whole_path(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("tree")
    for part in parts:
        tree(folder, "/".join(part) + ".mp3")
    paths = [path for path, _ in walk(os.fsencode(folder))]
    assert paths == sorted(paths)
    assert len(paths) == len({"/".join(p) for p in parts})


LATE_NS = 13_569_465_600 * 10**9  # the first of January 2400


class Found:
    """What a walk sees of one file."""

    def __init__(self, dev=1, ino=1, size=1, mtime_ns=1):
        self.st_dev, self.st_ino, self.st_size, self.st_mtime_ns = dev, ino, size, mtime_ns


def row(path, file_id, state="ready", dev=1, ino=1, size=1, mtime_ns=1):
    return (file_id, path, dev, ino, size, mtime_ns, state)


@pytest.mark.parametrize(
    ("known", "walked", "kind"),
    [
        ({}, {}, "unchanged"),
        ({}, {"size": 2}, "changed"),
        ({}, {"mtime_ns": 2}, "changed"),
        ({}, {"ino": 2}, "replaced"),  # by another file of the same size and time
        ({"state": "missing"}, {"ino": 2}, "changed"),
        ({}, {"dev": 2}, "unchanged"),  # the drive was mounted again
        ({}, {"dev": 2, "ino": 2}, "renumbered"),  # with new inode numbers, as FAT and network drives do
        ({"state": "missing"}, {}, "back"),
        ({"state": "missing"}, {"size": 2}, "changed"),
        ({"state": "unreadable"}, {}, "unchanged"),  # not tried again until it changes
        ({"state": "deferred"}, {}, "changed"),  # tried again
        ({"mtime_ns": LATE_NS - 2**64}, {"mtime_ns": LATE_NS}, "unchanged"),  # beyond SQLite's 64 bits
        ({"mtime_ns": LATE_NS - 2**64}, {"mtime_ns": LATE_NS + 1}, "changed"),
        ({"dev": -1, "ino": -1}, {"dev": 2**64 - 1, "ino": 2**64 - 1}, "unchanged"),
        ({"ino": -1}, {"ino": 2**64 - 2}, "replaced"),
    ],
)
def test_what_counts_as_changed(known, walked, kind):
    assert kinds(known, walked) == [kind]


def kinds(known, walked):
    return [k for k, _, _ in compare(iter([row(b"/m/a", 7, **known)]), iter([(b"/m/a", Found(**walked))]))]


@pytest.mark.parametrize(
    ("known", "walked", "kind"),
    [
        ({}, {}, "unchanged"),
        ({}, {"ino": 2}, "renumbered"),
        ({"state": "missing"}, {"ino": 2}, "back"),
        ({}, {"ino": 2, "size": 2}, "changed"),
        ({}, {"ino": 2, "mtime_ns": 2}, "changed"),
    ],
)
def test_where_inode_numbers_change_with_every_mount_they_make_no_file_changed(monkeypatch, known, walked, kind):
    monkeypatch.setattr(LastingInodes, "at", lambda _self, _path: False)
    assert kinds(known, walked) == [kind]


def test_merging_rows_and_walk_finds_every_difference():
    rng = random.Random(5)
    for _ in range(200):
        names = [b"/m/%d/%d.mp3" % (a, b) for a in range(4) for b in range(6)]
        known, there = set(rng.sample(names, rng.randrange(24))), set(rng.sample(names, rng.randrange(24)))
        got = {
            path: kind
            for kind, path, _ in compare(
                (row(p, i) for i, p in enumerate(sorted(known), 1)), ((p, Found()) for p in sorted(there))
            )
        }
        assert got == {
            **dict.fromkeys(known - there, "vanished"),
            **dict.fromkeys(there - known, "new"),
            **dict.fromkeys(known & there, "unchanged"),
        }


def test_files_of_a_folder_that_cannot_be_listed_are_not_gone():
    rows = [
        row(b"/m/a.mp3", 1),
        row(b"/m/b/1.mp3", 2),
        row(b"/m/b/2.mp3", 3),
        row(b"/m/b0.mp3", 4),
        row(b"/m/c.mp3", 5),
    ]
    got = list(compare(iter(rows), iter([(b"/m/b", None), (b"/m/c.mp3", Found())])))
    assert got == [
        ("vanished", b"/m/a.mp3", 1),
        ("unlisted", b"/m/b", 0),
        ("vanished", b"/m/b0.mp3", 4),
        ("unchanged", b"/m/c.mp3", 5),
    ]


@pytest.mark.parametrize(
    ("before", "walked", "reason"),
    [
        (Before(10, 10, 10, dev=1), {"unchanged": 10}, None),
        (Before(10, 10, 10, dev=1), {"unchanged": 5, "vanished": 5}, None),
        (Before(10, 10, 10, dev=1), {"unchanged": 4, "vanished": 6}, "has lost 6 of its 10"),
        (Before(10, 10, 10, dev=2), {"unchanged": 10}, None),  # the same drive under a new number
        (Before(10, 10, 10, dev=2), {"unchanged": 9, "vanished": 1}, None),
        (Before(10, 10, 10, dev=2), {"unchanged": 8, "vanished": 2}, "lacks 2 of its 10 files: is another drive"),
        (Before(10, 10, 10, dev=2), {"new": 50, "vanished": 10}, "lacks 10 of its 10 files: is another drive"),
        (Before(10, 10, 10, dev=None), {"unchanged": 8, "vanished": 2}, None),  # of a library that remembers none
        (Before(10, 10, 10, dev=2), {"unchanged": 8, "unlisted": ["/m/x"]}, None),  # not seen is not gone
        (
            Before(4, 10, 12, dev=1, offline=True),
            {"unchanged": 4, "vanished": 8},
            "has lost 6 of its 10",
        ),  # missing before, and still missing
        (Before(4, 10, 12, dev=1, offline=True), {"unchanged": 4, "back": 1, "vanished": 7}, None),
        (Before(4, 4, 12, dev=1), {"unchanged": 4, "vanished": 8}, None),  # missing for long: not because of the drive
        (Before(0, 10, 10, dev=1), {"vanished": 10}, "is empty but held 10"),
    ],
)
def test_a_root_is_offline_when_too_much_is_gone(before, walked, reason):
    counts = {kind: n for kind, n in walked.items() if kind != "unlisted"}
    difference = Difference(dev=1, counts=Counter(counts), unlisted=walked.get("unlisted", []))
    why = why_offline(b"/m", difference, before)
    assert (why is None) if reason is None else (reason in (why or ""))


def test_folders_to_scan_are_the_named_else_the_configured_else_the_known(tmp_path):
    a, b = tree(tmp_path / "a", "x.mp3"), tree(tmp_path / "b", "x.mp3")
    (tmp_path / "link").symlink_to(a)
    to_bytes = lambda *paths: [os.fsencode(p) for p in paths]  # noqa: E731
    assert folders_to_scan([tmp_path / "link"], [b], []) == to_bytes(a)
    assert folders_to_scan([], [b], to_bytes(a)) == to_bytes(b)
    assert folders_to_scan([], [], to_bytes(a)) == to_bytes(a)
    assert folders_to_scan([tmp_path, a, b], [], []) == to_bytes(tmp_path)
    with pytest.raises(ConfigError, match="nothing to scan"):
        folders_to_scan([], [], [])
