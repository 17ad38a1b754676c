"""The promise: one test a sentence, in the same words. README links here."""

import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import av
import mutagen
import mutagen.aiff
import mutagen.id3
import mutagen.mp4
import numpy as np
import pytest
from mutagen import wave

from tests.helpers.contents import contents, genre_of, rows
from tests.helpers.synth import CONTAINERS, write_audio


def pcm_digest(path: Path) -> str:
    """The decoded sound, through FFmpeg, without any code of ours."""
    digest = hashlib.sha256()
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            digest.update(np.ascontiguousarray(frame.to_ndarray()).tobytes())
    return digest.hexdigest()


def every_container(folder: Path) -> Path:
    folder.mkdir()
    for seed, container in enumerate(CONTAINERS):
        write_audio(folder / f"{container}{CONTAINERS[container][0]}", container, 1.0, seed=seed)
    return folder


def test_audio_bytes_are_never_changed(cli, tmp_path):
    """Audio bytes are never changed."""
    folder = every_container(tmp_path / "m")
    before = {p.name: pcm_digest(p) for p in folder.iterdir()}
    identities = "SELECT path_text, audio_sha256 FROM files JOIN recordings ON recordings.id = recording_id ORDER BY 1"
    cli("scan", folder, "--no-tags")
    known = rows(cli, identities)
    summary = cli.json("scan", folder, "--force")
    assert summary["tags_written"] == len(before) - 1  # all but raw ADTS, which has no place for a tag
    assert {p.name: pcm_digest(p) for p in folder.iterdir()} == before
    assert rows(cli, identities) == known
    cli("tags", "undo", "--all")
    assert {p.name: pcm_digest(p) for p in folder.iterdir()} == before


def rich_id3(tags: mutagen.id3.ID3) -> None:
    tags.add(mutagen.id3.TIT2(encoding=1, text=["Title"]))
    tags.add(mutagen.id3.TYER(encoding=0, text=["1999"]))
    tags.add(mutagen.id3.APIC(encoding=0, mime="image/png", type=3, desc="cover", data=b"\x89PNG" + b"x" * 3000))
    tags.add(
        mutagen.id3.GEOB(encoding=0, mime="application/octet-stream", desc="Serato Markers2", data=os.urandom(500))
    )
    tags.add(mutagen.id3.PRIV(owner="TRAKTOR4", data=os.urandom(500)))
    tags.add(mutagen.id3.TXXX(encoding=0, desc="EnergyLevel", text=["7"]))


ADDED = ("TBPM", "TKEY", "BPM", "INITIALKEY", "TMPO", "----:COM.APPLE.ITUNES:INITIALKEY")


def fields(path: Path, but: tuple[str, ...] = ()) -> dict[str, object]:
    """Every field but the genre, our own and ``but``, as mutagen reads them, and the version of an ID3 tag."""
    file = mutagen.File(path)
    tags = file.tags
    if isinstance(tags, mutagen.id3.ID3):
        raw = mutagen.id3.ID3(path, translate=False) if path.suffix == ".mp3" else tags
        found = {key: repr(frame) for key, frame in raw.items() if key not in ("TCON", *but) and "INDEXER" not in key}
        return {**found, "version": raw.version, "unknown": raw.unknown_frames}
    return {
        key: value
        for key, value in dict(tags or {}).items()
        if key.lower() not in ("genre", "\xa9gen") and key.upper() not in but and "INDEXER" not in key.upper()
    }


@pytest.mark.parametrize("asked_for", [(), ADDED], ids=["genre", "tempo and key"])
def test_no_other_tag_is_ever_changed(cli, tmp_path, asked_for):
    """No tag other than the genre and our own INDEXER_* fields (and tempo and key, where you asked for them) is ever
    changed, down to unknown frames and the tag's own version.
    """
    folder = tmp_path / "m"
    folder.mkdir()
    for version in (3, 4):
        path = write_audio(folder / f"v2{version}.mp3", "mp3", 1.0, seed=version)
        tags = mutagen.id3.ID3()
        rich_id3(tags)
        tags.save(path, v2_version=version, v23_sep=None)
    unknown = b"XQQ1" + (20).to_bytes(4, "big") + b"\0\0" + b"vendor's own frame.."
    head = (folder / "v23.mp3").read_bytes()
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    padding = head[10 : 10 + size].rstrip(b"\0")
    body = padding + unknown  # the frame goes where the padding began
    (folder / "v23.mp3").write_bytes(
        head[:10] + body.ljust(size, b"\0")[:size] + head[10 + size :]
        if len(body) <= size
        else head[:6] + bytes((len(body) >> s) & 0x7F for s in (21, 14, 7, 0)) + body + head[10 + size :]
    )
    flac = mutagen.File(write_audio(folder / "a.flac", "flac", 1.0, seed=5))
    flac["SERATO_MARKERS_V2"] = ["YXBwbGljYXRpb24="]
    flac["artist"] = ["One", "Two"]
    flac.save()
    m4a = mutagen.mp4.MP4(write_audio(folder / "a.m4a", "m4a", 1.0, seed=6))
    m4a["----:com.serato.dj:markersv2"] = [b"cue points"]
    m4a["\xa9nam"] = ["Title"]
    m4a.save()
    for kind, name in ((wave.WAVE, "wav"), (mutagen.aiff.AIFF, "aiff")):
        file = kind(write_audio(folder / f"a.{name}", name, 1.0, seed=7))
        file.add_tags()
        rich_id3(file.tags)
        file.save()
    before = {p.name: fields(p) for p in folder.iterdir()}
    assert "XQQ1" in str(before["v23.mp3"]["unknown"])
    if asked_for:
        cli("scan", folder, "--no-tags")
        with contextlib.closing(sqlite3.connect(cli.db)) as conn, conn:
            conn.execute("UPDATE analysis SET tempo_bpm = 128, key = '8A', key_name = 'Am'")
    env = {"INDEXER_WRITE_TAGS_BPM": "true", "INDEXER_WRITE_TAGS_KEY": "true"} if asked_for else {}
    assert cli.json("scan", folder, env=env)["tags_written"] == 6
    assert {p.name: fields(p, asked_for) for p in folder.iterdir()} == before
    assert ({p.name: fields(p) for p in folder.iterdir()} == before) == (not asked_for)
    assert before["v23.mp3"]["version"][:2] == (2, 3)
    assert before["v24.mp3"]["version"][:2] == (2, 4)
    cli("tags", "undo", "--all")
    assert {p.name: fields(p) for p in folder.iterdir()} == before


KILLER = """
import os, signal, sqlite3
limit, counter = int(os.environ["KILL_AT"]), os.environ["KILL_COUNTER"]
real = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "unlink", "ftruncate")}
def tick():
    handle = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, b".")
    count = os.fstat(handle).st_size
    os.close(handle)
    if count == limit:
        os.killpg(0, signal.SIGKILL)
def counted(function):
    def call(*args, **kwargs):
        tick()
        return function(*args, **kwargs)
    return call
for name, function in real.items():
    setattr(os, name, counted(function))
class Connection(sqlite3.Connection):
    def execute(self, sql, *args):
        if sql.split(None, 1)[0].upper() in ("INSERT", "UPDATE", "DELETE", "BEGIN", "COMMIT"):
            tick()
        return super().execute(sql, *args)
    def commit(self):
        tick()
        super().commit()
connect = sqlite3.connect
sqlite3.connect = lambda *args, **kwargs: connect(*args, **{"factory": Connection, **kwargs})
"""


def learn_stat(cli, path):
    """What a scan would write of a file that was read before and is as it was."""
    stat = path.stat()
    with contextlib.closing(sqlite3.connect(cli.db)) as conn, conn:
        changed = conn.execute(
            "UPDATE files SET dev = ?, ino = ?, size = ?, mtime_ns = ? WHERE path = ?",
            (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, os.fsencode(path)),
        ).rowcount
    assert changed == 1


@pytest.mark.slow_first
def test_after_a_crash_each_file_is_wholly_old_or_wholly_new(quick_cli, tmp_path):
    """After a crash or power cut at any instant each file is wholly old or wholly new.

    Kills parent and child together at call N of fsync, rename, unlink, truncate and every statement that writes to the
    library, for N = 1, 2, ... until a run comes through.
    """
    cli = quick_cli
    folder = tmp_path / "m"
    folder.mkdir()
    path = write_audio(folder / "a.mp3", "mp3", 0.5)
    cli("scan", folder, "--no-tags")
    old = path.read_bytes()
    prepared = tmp_path / "prepared"
    shutil.copytree(cli.folder, prepared)
    cli("tags", "apply")
    new = path.read_bytes()
    assert new != old
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(textwrap.dedent(KILLER))
    for n in range(1, 200):
        stat = path.stat()
        path.write_bytes(old)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
        shutil.rmtree(cli.folder)
        shutil.copytree(prepared, cli.folder)
        learn_stat(cli, path)
        counter = tmp_path / f"count{n}"
        process = subprocess.run(
            [sys.executable, "-m", "indexer", "tags", "apply", "-q"],
            capture_output=True,
            start_new_session=True,
            check=False,
            env={
                **os.environ,
                **cli.environ,
                "PYTHONPATH": str(tmp_path / "site"),
                "KILL_AT": str(n),
                "KILL_COUNTER": str(counter),
            },
        )
        data = path.read_bytes()
        assert data in (old, new), f"killed at call {n}: neither old nor new"
        if process.returncode == 0:
            assert data == new
            break
        assert process.returncode == -9, process.stderr
        cli("scan", folder)  # the next start settles the rest
        assert path.read_bytes() == new
        assert list(folder.iterdir()) == [path], f"killed at call {n}: a temporary file stays"
        assert rows(cli, "SELECT 1 FROM tag_writes WHERE state = 'intended'") == []
    assert 10 < n < 199


def test_every_genre_we_wrote_can_be_undone(cli, music_folder):
    """Every genre we wrote can be undone, also without the database."""
    cli("scan", music_folder)
    files = sorted(music_folder.rglob("*.*"))
    assert all(genre_of(f) for f in files)
    assert len(cli.json("tags", "undo", *files[:3])["restored"]) == 3
    for leftover in cli.folder.glob("library.db*"):
        leftover.unlink()
    assert len(cli.json("tags", "undo", *files)["restored"]) == 3
    for file in files:
        assert genre_of(file) is None
        assert "INDEXER" not in str(mutagen.File(file).tags).upper()
    assert not cli.db.exists()


def test_a_missing_drive_deletes_nothing(cli, music_folder):
    """A missing drive deletes nothing."""
    cli("scan", music_folder)
    before = rows(cli, "SELECT count(*) AS n FROM embeddings")
    away = music_folder.rename(music_folder.with_name("away"))
    music_folder.mkdir()  # an empty mount point
    for _ in range(2):
        result = cli("scan", music_folder, code=1)
        assert "is the drive mounted?" in result.stderr
    assert rows(cli, "SELECT state, count(*) AS n FROM files GROUP BY state") == [{"state": "missing", "n": 6}]
    assert rows(cli, "SELECT state FROM roots") == [{"state": "offline"}]
    music_folder.rmdir()
    assert "is the drive mounted?" in cli("scan", code=1).stderr  # not even the mount point
    away.rename(music_folder)
    summary = cli.json("scan")
    assert (summary["embedded"], summary["missing"], summary["files"]) == (0, 0, 6)
    assert rows(cli, "SELECT count(*) AS n FROM embeddings") == before


def test_a_recording_is_embedded_once(cli, music_folder):
    """A recording is embedded once: renames, moves, copies and retagging by any program cost no second embedding."""
    cli("scan", music_folder)
    ids = {r["path_text"]: r["id"] for r in rows(cli, "SELECT id, path_text FROM files")}
    (music_folder / "mp3.mp3").rename(music_folder / "renamed.mp3")
    (music_folder / "album").rename(music_folder / "other album")
    shutil.copy(music_folder / "flac.flac", music_folder / "copy.flac")
    tagged = mutagen.File(music_folder / "vorbis.ogg")
    tagged["title"] = ["A new title"]
    tagged.save()
    (music_folder / "m4a.m4a").touch()
    summary = cli.json("scan", music_folder)
    assert (summary["embedded"], summary["missing"], summary["files"]) == (0, 0, 7)
    after = {r["path_text"]: r["id"] for r in rows(cli, "SELECT id, path_text FROM files")}
    assert after[str(music_folder / "renamed.mp3")] == ids[str(music_folder / "mp3.mp3")]
    assert after[str(music_folder / "other album" / "wav.wav")] == ids[str(music_folder / "album" / "wav.wav")]
    assert rows(cli, "SELECT title FROM tracks WHERE path LIKE '%vorbis.ogg'") == [{"title": "A new title"}]


def test_a_run_over_every_container_leaves_nothing_behind(cli, tmp_path):
    folder = every_container(tmp_path / "m")
    names = set(contents(folder))
    cli("scan", folder)
    assert set(contents(folder)) == names
