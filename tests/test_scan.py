"""The whole program on real (synthesised) files, through the command line."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from pathlib import Path

import mutagen
import numpy as np
import pytest

from indexer.analysis.analyser import Analysis
from indexer.encoders.encoder import track_vector
from indexer.encoders.load import load_encoder
from indexer.encoders.rhythm import RhythmEncoder
from indexer.files.audio.decode import decode
from indexer.files.children.worker import Worker
from indexer.files.mounts import LastingInodes
from indexer.heads.linear import LinearHead
from indexer.heads.load import audioset_head
from indexer.library.lock import library_lock
from indexer.library.store import Store
from indexer.models import catalogue
from indexer.scan import pipeline
from tests.helpers.contents import contents, genre_of, rows
from tests.helpers.pages import Pages
from tests.helpers.synth import music, write_audio


def test_a_scan_takes_every_container_from_file_to_genre(cli, music_folder):
    summary = cli.json("scan", music_folder)
    assert {k: summary[k] for k in ("files", "embedded", "classified", "tags_written", "failed", "unreadable")} == {
        "files": 6,
        "embedded": 6,
        "classified": 6,
        "tags_written": 6,
        "failed": 0,
        "unreadable": 0,
    }
    assert summary["audio_s"] == pytest.approx(11, abs=0.3)
    tracks = rows(cli, "SELECT * FROM tracks ORDER BY path")
    assert [t["container"] for t in tracks] == ["wav", "flac", "mp4", "mp3", "opus", "vorbis"]
    for track in tracks:
        scores = [track[label] for label in ("ambient", "drum and bass", "house", "techno", "trance")]
        assert sum(scores) == pytest.approx(1, abs=1e-3)
        assert track["confidence"] == max(scores)
        assert track["decided"] == 1
        written = genre_of(Path(track["path"]))
        assert written is not None
        assert written.casefold() == track["genre"]
        assert track["tag_genre"] == written


def test_the_stored_vector_and_scores_are_those_of_the_audio(cli, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    write_audio(folder / "a.wav", "wav", 7.0, sample_rate_hz=16_000, channels=1)
    cli("scan", folder, "--no-tags", "--precision", "fp32")
    path = catalogue.resolve(str(cli.model), cli.folder / "models")
    encoder = load_encoder(path, device="cpu", precision="fp32")
    cutter = encoder.cutter()
    pcm = (
        np.rint(music(7.0, sample_rate_hz=16_000, channels=1)[:, 0] * 32768).clip(-32768, 32767).astype(np.float32)
        / 32768
    )
    units = [*cutter.push(pcm), *cutter.finish()]
    expected = track_vector(encoder.encode(units), np.array([u.weight for u in units]))
    stored = np.frombuffer(rows(cli, "SELECT vector FROM embeddings")[0]["vector"], "<f2").astype(np.float32)
    np.testing.assert_allclose(stored, expected, rtol=2e-3, atol=2e-3)
    scores = audioset_head(path).scores(expected[None])[0]
    assert [r["probability"] for r in rows(cli, "SELECT probability FROM scores ORDER BY genre")] == pytest.approx(
        list(scores), abs=1e-4
    )


LISTENERS: list[list[str]] = []  # each gets the paths that this process opens


def _listen(event: str, arguments: tuple) -> None:
    if LISTENERS and event == "open" and isinstance(arguments[0], (str, bytes)):
        LISTENERS[-1].append(os.fsdecode(arguments[0]))


sys.addaudithook(_listen)  # cannot be taken off again, so it stays silent outside that test


def test_a_second_scan_embeds_nothing_and_opens_no_music_file(cli, music_folder, monkeypatch):
    cli("scan", music_folder)
    monkeypatch.setattr(Worker, "_start", lambda self: pytest.fail("a child process was started to read a file"))
    opened: list[str] = []
    LISTENERS.append(opened)
    try:
        second = cli.json("scan", music_folder)
    finally:
        LISTENERS.clear()
    assert any(path.endswith("library.db.lock") for path in opened)  # the listener is at work
    assert [path for path in opened if path.startswith(str(music_folder)) and Path(path).is_file()] == []
    assert (second["embedded"], second["cached"], second["tags_written"], second["files"]) == (0, 0, 0, 6)


def test_copies_found_in_one_scan_share_one_embedding(cli, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    write_audio(folder / "a.flac", "flac")
    for name in "bcde":
        shutil.copy(folder / "a.flac", folder / f"{name}.flac")
    summary = cli.json("scan", folder)
    assert (summary["embedded"], summary["cached"], summary["tags_written"]) == (1, 4, 5)


def test_losing_over_half_the_files_is_said_loudly(cli, music_folder):
    cli("scan", music_folder)
    for name in ("mp3.mp3", "flac.flac", "opus.opus", "m4a.m4a"):
        (music_folder / name).unlink()
    result = cli("scan", music_folder, code=1)
    assert "has lost 4 of its 6 files" in result.stderr
    for _ in range(2):  # the files are known as missing now: the root stays offline
        assert cli.json("scan", music_folder, code=1)["missing"] == 4
        assert rows(cli, "SELECT state FROM roots") == [{"state": "offline"}]
    assert cli.json("prune", "--yes")["forgotten"] == 0
    assert cli.json("prune", "--yes", music_folder)["forgotten"] == 4  # because the folder is named
    assert cli.json("scan", music_folder)["missing"] == 0
    assert rows(cli, "SELECT state, reason FROM roots") == [{"state": "online", "reason": None}]


def test_a_root_is_online_again_when_enough_of_what_was_there_is_back(cli, music_folder, tmp_path):
    names = sorted(p.name for p in music_folder.glob("*.*"))  # 5 of 6
    for name in names[3:]:  # missing before the drive goes: they do not count
        (music_folder / name).unlink()
    cli("scan", music_folder)
    cli("scan", music_folder)
    for name in names[:3]:
        (music_folder / name).rename(tmp_path / name)
    assert "has lost 3 of its 4 files" in cli("scan", music_folder, code=1).stderr
    assert "has lost 3 of its 4 files" in cli("scan", music_folder, code=1).stderr
    (tmp_path / names[0]).rename(music_folder / names[0])
    assert cli.json("scan", music_folder)["embedded"] == 0
    assert rows(cli, "SELECT state, reason FROM roots") == [{"state": "online", "reason": None}]


def remember_another_drive(cli) -> None:
    with Store(cli.db) as store:
        store._run("UPDATE roots SET dev = dev + 1")


def test_another_drive_in_the_place_of_a_root_takes_nothing_for_gone(cli, music_folder):
    cli("scan", music_folder)
    device = os.stat(music_folder).st_dev
    assert rows(cli, "SELECT dev FROM roots") == [{"dev": device}]
    remember_another_drive(cli)
    cli("scan", music_folder)  # the same drive under another number
    assert rows(cli, "SELECT state, dev FROM roots") == [{"state": "online", "dev": device}]
    for name in ("mp3.mp3", "flac.flac"):  # a third: on the same drive somebody deleted them
        (music_folder / name).unlink()
    remember_another_drive(cli)
    for _ in range(2):
        assert "lacks 2 of its 6 files: is another drive mounted there?" in cli("scan", music_folder, code=1).stderr
        assert rows(cli, "SELECT state, dev FROM roots") == [{"state": "offline", "dev": device + 1}]


def test_what_was_left_undone_is_done_after_the_drive_was_mounted_anew(cli, music_folder):
    """Its new device number makes no file changed, for the scan as for the embedding."""
    cli.json("scan", music_folder, "--no-tags")
    with contextlib.closing(sqlite3.connect(cli.db)) as conn, conn:
        conn.execute("UPDATE files SET dev = dev + 1, ino = ino + 1")
        conn.execute("DELETE FROM embeddings")
    found = cli.json("scan", music_folder, "--no-tags")
    assert (found["embedded"], found["failed"]) == (6, 0)


def test_a_folder_that_cannot_be_listed_loses_no_rows(cli, music_folder, monkeypatch):
    cli("scan", music_folder)
    real = os.scandir

    def refuse(path):
        if os.fsencode(path).endswith(b"album"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = cli("scan", music_folder, code=1)
    assert "cannot be read; its files are kept" in result.stderr
    assert rows(cli, "SELECT count(*) AS n FROM files WHERE state = 'ready'") == [{"n": 6}]


def test_one_broken_file_never_stops_the_rest(cli, music_folder):
    (music_folder / "broken.mp3").write_bytes(b"<!doctype html><title>404</title>" * 50)
    (music_folder / "empty.flac").touch()
    whole = (music_folder / "flac.flac").read_bytes()
    (music_folder / "part.flac").write_bytes(whole[: len(whole) // 4])
    before = contents(music_folder)
    result = cli("scan", music_folder, "--json", code=1)
    summary = json.loads(result.stdout)
    assert (summary["embedded"], summary["unreadable"], summary["failed"]) == (6, 3, 3)
    reasons = {Path(f["path"]).name: f["reason"] for f in summary["failures"]}
    assert set(reasons) == {"broken.mp3", "empty.flac", "part.flac"}
    assert "empty" in reasons["empty.flac"]
    assert "truncated" in reasons["part.flac"]
    assert "HTML" in reasons["broken.mp3"]
    for path, reason in reasons.items():
        assert f"{path}: {reason}" in result.stderr
        assert contents(music_folder)[path] == before[path]
    assert cli.json("scan", music_folder)["failed"] == 0  # unchanged, so not tried again
    shutil.copy(music_folder / "flac.flac", music_folder / "part.flac")  # the copy was finished
    assert cli.json("scan", music_folder)["unreadable"] == 2


def test_one_file_has_one_reason_and_counts_once(quick_cli, music_folder, tmp_path):
    whole = write_audio(tmp_path / "whole", "mp3", 60.0)
    wav = (music_folder / "album" / "wav.wav").read_bytes()
    folder = tmp_path / "trouble"
    folder.mkdir()
    (folder / "empty.mp3").touch()
    (folder / "text.flac").write_bytes(b"no music" * 1000)
    (folder / "cut.mp3").write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    (folder / "nearly nothing.wav").write_bytes(wav[: len(wav) // 10])
    scan = quick_cli("scan", folder, code=1)
    assert "3 unreadable, 1 truncated; " in scan.stdout  # no file is counted as failed once more
    reasons = {row["path"]: row["reason"] for row in rows(quick_cli, "SELECT path, reason FROM tracks")}
    for result in quick_cli.json("classify", folder, code=1):
        said = result.get("error") or f"{result['damage']}; no genre is written into it"
        assert reasons[result["path"]] == said


def test_a_folder_of_links_says_so(quick_cli, music_folder, tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    for path in music_folder.glob("*.*"):
        (folder / path.name).symlink_to(path)
    (folder / "album").symlink_to(music_folder / "album")
    assert "left out: 6 links (none is followed" in quick_cli("scan", folder).stdout
    said = quick_cli("classify", folder, code=1).stderr
    assert said == f"{folder}: no audio file in this folder; 6 links in it, and none is followed\n"


def test_what_is_there_of_files_that_lost_their_end_gets_a_genre_and_is_not_written(quick_cli, tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    wholes = {name: write_audio(tmp_path / name, name, 4.0) for name in ("vorbis", "opus", "wav", "flac", "mp3")}
    for path in wholes.values():
        (folder / path.name).write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    before = contents(folder)
    result = quick_cli("scan", folder)
    assert "5 truncated" in result.stdout
    for path in folder.iterdir():  # once each
        assert result.stderr.count(f"{path}: truncated: ") == 1
    assert contents(folder) == before
    found = rows(quick_cli, "SELECT state, reason, genre FROM tracks")
    assert {row["state"] for row in found} == {"ready"}
    assert all(row["genre"] for row in found)
    assert all(row["reason"].startswith("truncated: ") for row in found)
    assert all(row["reason"].endswith("; no genre is written into it") for row in found)
    status = quick_cli.json("status")
    assert (status["truncated"], [row["files"] for row in status["left_alone"]]) == (5, [5])
    assert "5 truncated" in quick_cli("status").stdout

    # What only decoding finds is kept with the file where it is touched, copied or moved; nothing is decoded again.
    flac = folder / wholes["flac"].name
    shutil.copy(flac, folder / "copy.flac")
    os.utime(flac, ns=(1, 1))
    (folder / wholes["vorbis"].name).rename(folder / "moved.ogg")
    again = quick_cli.json("scan", folder)
    assert (again["truncated"], again["embedded"], again["tags_written"]) == (6, 0, 0)
    assert quick_cli.json("scan", folder)["truncated"] == 6

    # The whole file is a new recording, as if another one had taken its place.
    shutil.copy(wholes["wav"], folder / wholes["wav"].name)
    whole = quick_cli.json("scan", folder)
    assert (whole["truncated"], whole["embedded"], whole["tags_written"]) == (5, 1, 1)


def test_a_time_far_in_the_future_stops_nothing(quick_cli, tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    late = write_audio(folder / "late", "wav", 2.0, seed=1)
    write_audio(folder / "plain", "wav", 2.0, seed=2)
    os.utime(late, ns=(13_569_465_600 * 10**9,) * 2)  # the year 2400; a file system may cut it
    assert quick_cli.json("scan", folder)["tags_written"] == 2
    assert quick_cli.json("scan", folder)["files"] == 2
    assert quick_cli.json("status")["files"] == {"ready": 2}


def test_an_error_that_nobody_foresaw_costs_one_file_and_nothing_of_its_neighbours(quick_cli, tmp_path, monkeypatch):
    folder = tmp_path / "music"
    folder.mkdir()
    for n in range(4):
        write_audio(folder / str(n), "wav", 2.0, seed=n)
    put_tags = Store.put_tags

    def failing(store, file_id, values):
        put_tags(store, file_id, values)
        if store.file(file_id).path.endswith(b"/1.wav"):
            raise OverflowError("a number\nis too large")

    monkeypatch.setattr(Store, "put_tags", failing)
    result = quick_cli("scan", folder, "--json", code=1)
    found = json.loads(result.stdout)
    reason = r"cannot be handled (OverflowError: a number\nis too large); please report this"
    assert (found["embedded"], found["failed"], found["failures"][0]["reason"]) == (3, 1, reason)
    assert rows(quick_cli, "SELECT path, state, reason FROM tracks WHERE state <> 'ready'") == [
        {"path": str(folder / "1.wav"), "state": "deferred", "reason": reason}
    ]
    monkeypatch.undo()
    assert quick_cli.json("scan", folder)["embedded"] == 1
    assert quick_cli.json("status")["files"] == {"ready": 4}


def test_a_drive_that_was_restored_is_not_read_again_and_a_file_that_was_replaced_is(quick_cli, tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    for n in range(3):
        write_audio(folder / str(n), "wav", 2.0, seed=n)
    quick_cli.json("scan", folder, "--no-tags")
    for statement, cached in (
        ("UPDATE files SET ino = ino + 9", 0),
        ("UPDATE files SET ino = ino + 9 WHERE id = 1", 1),
    ):
        with contextlib.closing(sqlite3.connect(quick_cli.db)) as conn, conn:
            conn.execute(statement)
        assert quick_cli.json("scan", folder, "--no-tags")["cached"] == cached


def test_a_stick_that_numbers_its_files_anew_is_not_read_again(quick_cli, tmp_path, monkeypatch):
    folder = tmp_path / "music"
    folder.mkdir()
    for n in range(2):
        write_audio(folder / str(n), "wav", 2.0, seed=n)
    quick_cli.json("scan", folder, "--no-tags")
    inodes = rows(quick_cli, "SELECT path, ino FROM files ORDER BY path")
    with contextlib.closing(sqlite3.connect(quick_cli.db)) as conn, conn:
        conn.execute("UPDATE files SET ino = ino + 100000")
        conn.execute("DELETE FROM embeddings")
    monkeypatch.setattr(LastingInodes, "at", lambda _self, _path: False)
    assert quick_cli.json("scan", folder, "--dry-run")["unchanged"] == 2
    found = quick_cli.json("scan", folder, "--no-tags")
    assert (found["embedded"], found["failed"]) == (2, 0)  # what the library still needs is heard from the same rows
    assert rows(quick_cli, "SELECT path, ino FROM files ORDER BY path") == inodes


def test_tags_that_cannot_be_read_cost_the_genre_in_the_file_and_nothing_else(quick_cli, tmp_path):
    """A tag of a version that nobody knows: heard, embedded, classified, said once, shown, and never written into."""
    folder = tmp_path / "music"
    folder.mkdir()
    odd = write_audio(folder / "odd", "mp3", 2.0, seed=1)
    data = odd.read_bytes()
    odd.write_bytes(data := data[:3] + b"\5" + data[4:])
    write_audio(folder / "plain", "mp3", 2.0, seed=2)
    reason = "its tags cannot be read (ID3v2.5 not supported); no genre is written into it"
    result = quick_cli("scan", folder, "--json")
    found = json.loads(result.stdout)
    assert (found["embedded"], found["classified"], found["tags_written"]) == (2, 2, 1)
    assert (found["tags_refused"], found["left_alone"], found["failed"]) == (1, 1, 0)
    assert result.stderr.count("odd.mp3") == 1
    assert f"odd.mp3: {reason}" in result.stderr
    assert odd.read_bytes() == data
    status = quick_cli.json("status")
    assert (status["files"], status["failures"]) == ({"ready": 2}, [])
    assert status["left_alone"] == [{"reason": reason, "files": 1, "example": str(odd)}]
    assert f"1 x {reason}" in quick_cli("status").stdout
    assert rows(quick_cli, "SELECT reason FROM tracks WHERE path LIKE '%odd%'") == [{"reason": reason}]
    assert quick_cli.json("tags", "apply", folder, "--dry-run")["tag_writes"] == 0
    again = quick_cli("scan", folder, env={"INDEXER_WRITE_TAGS": "replace"})
    assert "odd.mp3" not in again.stderr
    assert "odd.mp3: its tags cannot be read" in quick_cli("tags", "undo", odd, code=1).stderr
    odd.rename(tmp_path / "away.mp3")
    quick_cli("scan", folder)
    (tmp_path / "away.mp3").rename(odd)
    quick_cli("scan", folder)
    assert quick_cli.json("status")["left_alone"] == [{"reason": reason, "files": 1, "example": str(odd)}]
    assert odd.read_bytes() == data
    odd.write_bytes(data[:3] + b"\4" + data[4:])
    quick_cli("scan", folder)
    assert quick_cli.json("status")["left_alone"] == []
    assert odd.read_bytes() != data[:3] + b"\4" + data[4:]


def test_only_what_reaches_the_threshold_is_decided_and_written(cli, music_folder):
    before = contents(music_folder)
    summary = cli.json("scan", music_folder, env={"INDEXER_MIN_CONFIDENCE": "1"})
    assert (summary["undecided"], summary["tags_written"]) == (6, 0)
    assert contents(music_folder) == before
    assert {t["decided"] for t in rows(cli, "SELECT decided FROM tracks")} == {0}
    summary = cli.json("scan", music_folder)  # a lower threshold decides from the cache
    assert (summary["embedded"], summary["undecided"], summary["tags_written"]) == (0, 0, 6)


@pytest.mark.parametrize("how", [("--no-tags",), ("--dry-run",)])
def test_without_tags_no_byte_of_a_file_changes(cli, music_folder, how):
    before = contents(music_folder)
    cli("scan", music_folder, *how)
    assert contents(music_folder) == before
    assert cli.db.exists() == (how != ("--dry-run",))


def test_a_dry_run_names_what_a_scan_would_find(cli, music_folder):
    cli("scan", music_folder)
    (music_folder / "mp3.mp3").unlink()
    write_audio(music_folder / "new.wav", "wav", 0.5)
    (music_folder / "flac.flac").touch()
    found = cli.json("scan", "--dry-run")
    assert {k: found[k] for k in ("new", "changed", "unchanged", "vanished")} == {
        "new": 1,
        "changed": 1,
        "unchanged": 4,
        "vanished": 1,
    }
    assert found["paths"]["new"] == [str(music_folder / "new.wav")]


def test_a_dry_run_prints_the_genres_that_would_be_written(cli, music_folder):
    cli("scan", music_folder, "--no-tags")
    before = contents(music_folder)
    plan = cli.json("scan", "--dry-run")
    assert plan["tag_writes"] == 6
    assert cli.json("tags", "apply", "--dry-run")["writes"] == plan["writes"]
    assert "(none) -> " in cli("tags", "apply", "--dry-run").stdout
    assert contents(music_folder) == before
    cli("tags", "apply")
    assert [
        {"path": r["path"], "after": [r["tag_genre"]]}
        for r in rows(cli, "SELECT path, tag_genre FROM tracks ORDER BY path")
    ] == [{"path": w["path"], "after": w["after"]} for w in plan["writes"]]
    assert cli.json("scan", "--dry-run")["tag_writes"] == 0
    cli("tags", "undo", music_folder / "mp3.mp3")
    assert cli.json("scan", "--dry-run")["tag_writes"] == 0  # undone stays undone
    assert cli.json("tags", "apply", "--dry-run")["tag_writes"] == 1


def test_a_genre_beside_the_users_is_written_once_and_planned_once(cli, music_folder):
    tagged = mutagen.File(music_folder / "flac.flac")
    tagged["genre"] = ["Dub", "Field Recording"]
    tagged.save()
    cli("scan", music_folder, "--no-tags")
    beside = {"INDEXER_WRITE_TAGS": "append"}
    planned = {write["path"]: write["after"] for write in cli.json("scan", "--dry-run", env=beside)["writes"]}
    assert len(planned) == cli.json("status", env=beside)["not_written"] == 6
    cli("scan", music_folder, env=beside)
    assert planned[str(music_folder / "flac.flac")] == mutagen.File(music_folder / "flac.flac")["genre"]
    assert cli.json("tags", "apply", "--dry-run", env=beside)["writes"] == []
    assert cli.json("status", env=beside)["not_written"] == 0


def test_the_users_genre_stays_under_fill_and_goes_under_replace(cli, music_folder):
    tagged = mutagen.File(music_folder / "flac.flac")
    tagged["genre"] = ["Field Recording"]
    tagged.save()
    assert cli.json("scan", music_folder)["tags_written"] == 5
    assert genre_of(music_folder / "flac.flac") == "Field Recording"
    assert cli.json("scan", music_folder, env={"INDEXER_WRITE_TAGS": "replace"})["tags_written"] == 1
    assert genre_of(music_folder / "flac.flac") != "Field Recording"
    assert cli.json("tags", "undo", music_folder / "flac.flac")["restored"] == [str(music_folder / "flac.flac")]
    assert genre_of(music_folder / "flac.flac") == "Field Recording"


def test_the_text_of_a_label_is_the_users(cli, music_folder):
    labels = ", ".join(
        f"'{label}' = 'X {label}'" for label in ("ambient", "drum and bass", "house", "techno", "trance")
    )
    cli("scan", music_folder, env={"INDEXER_LABELS": f"{{{labels}}}"})
    assert genre_of(music_folder / "mp3.mp3").startswith("X ")


def test_an_undone_genre_stays_undone_until_asked_for(cli, music_folder):
    cli("scan", music_folder)
    file = music_folder / "mp3.mp3"
    cli("tags", "undo", file)
    assert cli.json("scan", music_folder)["tags_written"] == 0
    assert cli.json("scan", music_folder, "--force")["tags_written"] == 0
    history = cli.json("tags", "history", file)
    assert [(h["action"], h["state"]) for h in history] == [("write", "done"), ("undo", "done")]
    assert history[0]["before"] == [] == history[1]["after"]
    assert cli.json("tags", "apply", music_folder)["tags_written"] == 1
    assert genre_of(file)


def test_undo_by_run_by_time_and_of_everything(cli, music_folder):
    cli("scan", music_folder)
    run = rows(cli, "SELECT max(id) AS id FROM runs")[0]["id"]
    assert cli.json("tags", "undo", "--run", run + 1)["restored"] == []
    assert cli.json("tags", "undo", "--since", "2100-01-01")["restored"] == []
    assert len(cli.json("tags", "undo", "--run", run)["restored"]) == 6
    cli("tags", "apply", music_folder)
    assert len(cli.json("tags", "undo", "--since", "2020-01-01")["restored"]) == 6
    cli("tags", "apply", music_folder)
    shutil.copy(music_folder / "mp3.mp3", music_folder / "copy.mp3")
    cli("scan", music_folder)
    assert len(cli.json("tags", "undo", "--all")["restored"]) == 7
    assert cli("tags", "undo", code=2).stderr.strip().endswith("name files, or one of --run, --since and --all")


def test_a_genre_that_the_user_changed_after_us_is_the_users(cli, music_folder):
    cli("scan", music_folder)
    file = music_folder / "flac.flac"
    tagged = mutagen.File(file)
    tagged["genre"] = ["Dub"]
    tagged.save()
    assert cli.json("scan", music_folder)["tags_written"] == 0
    assert genre_of(file) == "Dub"
    result = cli("tags", "undo", file, code=1)
    assert "changed since" in result.stderr
    assert genre_of(file) == "Dub"
    cli("tags", "undo", "--force", file)
    assert genre_of(file) is None


def test_force_reads_and_embeds_again(cli, music_folder):
    cli("scan", music_folder)
    summary = cli.json("scan", music_folder, "--force", env={"INDEXER_WRITE_TAGS": "replace"})
    assert (summary["embedded"], summary["classified"], summary["tags_written"]) == (
        6,
        6,
        0,
    )  # each once, not again as backlog


def test_a_single_file_can_be_scanned(cli, music_folder):
    assert cli.json("scan", music_folder / "mp3.mp3")["embedded"] == 1
    assert cli.json("scan", music_folder / "mp3.mp3")["cached"] == 0
    assert cli.json("scan", music_folder)["embedded"] == 5


def test_names_of_any_bytes_and_links_are_walked_as_promised(cli, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    source = write_audio(tmp_path / "source.wav", "wav", 0.5)
    names = [
        b"caf\xe9.wav",
        b"new\nline.wav",
        b"-rf.wav",
        b"quote'\".wav",
        "nfc\u00e9.wav".encode(),
        "nfde\u0301.wav".encode(),
        b"per%cent.wav",
        b"\x1b[31m.wav",
        b"UPPER.WAV",
        b" .wav",
    ]
    for name in names:
        shutil.copy(source, os.fsencode(folder) + b"/" + name)
    os.symlink("-rf.wav", folder / "link.wav")
    os.symlink("..", folder / "loop")
    (folder / ".hidden.wav").write_bytes(b"x")
    os.mkfifo(folder / "pipe.wav")
    summary = cli.json("scan", folder, "--no-tags")
    assert (summary["files"], summary["embedded"], summary["failed"]) == (len(names), 1, 0)
    assert sorted(bytes(r["path"]).rpartition(b"/")[2] for r in rows(cli, "SELECT path FROM files")) == sorted(names)


def test_without_a_model_the_built_in_encoder_embeds_and_one_line_says_how_to_get_genres(bare_cli, music_folder):
    before = contents(music_folder)
    result = bare_cli("scan", music_folder)
    (line,) = [line for line in result.stderr.splitlines() if "genres" in line]
    assert "label about ten tracks of each and run `indexer train`" in line
    assert "indexer models download m2d_as_vit_base-80x1001p16x16-240213_AS-FT_enconly" in line
    assert len(rows(bare_cli, "SELECT 1 FROM tracks WHERE state = 'ready' AND duration_s > 0 AND genre IS NULL")) == 6
    stored = rows(bare_cli, "SELECT vector, name FROM embeddings JOIN encoders ON encoders.id = encoder_id")
    assert {(len(r["vector"]), r["name"]) for r in stored} == {(2 * 400, "musicnn")}
    assert contents(music_folder) == before
    found = bare_cli.json("status")
    assert (found["embedded"], found["encoder"]["name"], found["head"]) == (6, "musicnn", None)
    summary = bare_cli.json("scan", music_folder)
    assert (summary["embedded"], summary["cached"], summary["failed"]) == (0, 0, 0)


def test_the_built_in_encoder_stores_the_vector_of_the_audio(cli, tmp_path):
    write_audio(tmp_path / "a.flac", "flac", 14.0)
    cli("scan", tmp_path / "a.flac", "--encoder", "rhythm")
    encoder = load_encoder("rhythm")
    cutter = encoder.cutter()
    units = [
        unit for block in decode(tmp_path / "a.flac", sample_rate_hz=44_100) for unit in cutter.push(block)
    ] + cutter.finish()
    expected = track_vector(encoder.encode(units), np.ones(len(units)))
    stored = np.frombuffer(rows(cli, "SELECT vector FROM embeddings")[0]["vector"], "<f2")
    np.testing.assert_array_equal(stored, expected.astype("<f2"))


def in_use(cli):
    return [r["name"] for r in rows(cli, "SELECT name FROM encoders WHERE in_use = 1")]


def test_the_built_in_encoder_gives_way_to_the_first_model_unless_it_was_chosen(bare_cli, small_model, music_folder):
    file = music_folder / "mp3.mp3"
    bare_cli("scan", file)
    assert in_use(bare_cli) == []
    bare_cli("models", "add", small_model, "--name", "small")
    assert bare_cli.json("scan", file)["embedded"] == 1
    assert in_use(bare_cli) == ["small"]
    said = "in use: musicnn, no head: genres need one (--head FILE)"
    wins = bare_cli("models", "use", "musicnn", env={"INDEXER_ENCODER": "rhythm"}).stdout
    assert wins.startswith(f'{said}; but the setting encoder = "rhythm" wins: ')
    assert bare_cli("models", "use", "musicnn").stdout == f"{said}\n"
    assert bare_cli.json("scan", file, "--no-tags")["embedded"] == 0  # its vector is still there
    assert in_use(bare_cli) == ["musicnn"]
    assert rows(bare_cli, "SELECT genre FROM tracks") == [{"genre": None}]


def test_a_library_that_another_built_in_encoder_embedded_by_default_keeps_it(quick_cli, music_folder):
    quick_cli.head = None
    quick_cli("scan", music_folder / "mp3.mp3")
    assert in_use(quick_cli) == ["rhythm"]
    quick_cli.model = None
    with sqlite3.connect(quick_cli.db) as library:  # as the version left it whose default was rhythm
        library.execute("UPDATE encoders SET in_use = 0")
    assert quick_cli.json("scan", music_folder)["embedded"] == 5
    assert {r["name"] for r in rows(quick_cli, "SELECT name FROM encoders")} == {"rhythm"}
    assert "no recording has a label" in quick_cli("train", code=2).stderr  # it looks for labels of these embeddings


def test_a_head_for_the_built_in_encoder_gives_genres_and_keeps_it_in_use(cli, music_folder, tmp_path):
    checkpoint, cli.model = cli.model, None
    weight = np.random.default_rng(0).standard_normal((2, 1668)).astype(np.float32)
    LinearHead("mine", load_encoder("rhythm").id, ("house", "techno"), 0.5, weight, np.zeros(2, np.float32)).save(
        tmp_path / "head.safetensors"
    )
    result = cli("scan", music_folder, "--no-tags", "--head", tmp_path / "head.safetensors")
    assert "no genres" not in result.stderr
    assert {r["genre"] for r in rows(cli, "SELECT genre FROM tracks")} <= {"house", "techno"}
    cli("models", "add", checkpoint, "--name", "small")
    summary = cli.json("scan", music_folder, "--no-tags")
    assert (summary["embedded"], summary["failed"], in_use(cli)) == (0, 0, ["rhythm"])
    (found,) = cli.json("classify", music_folder / "mp3.mp3")
    assert set(found["scores"]) == {"house", "techno"}


def test_a_model_in_use_that_is_gone_is_not_replaced_by_another(bare_cli, small_model, music_folder):
    bare_cli("models", "add", small_model, "--name", "small")
    bare_cli("scan", music_folder / "mp3.mp3", "--no-tags")
    shutil.rmtree(bare_cli.folder / "models")
    result = bare_cli("scan", music_folder, "--no-tags")
    assert "the library's model is not installed any more" in result.stderr
    assert in_use(bare_cli) == ["small"]
    assert len(rows(bare_cli, "SELECT 1 FROM embeddings")) == 1
    assert len(rows(bare_cli, "SELECT 1 FROM tracks WHERE genre IS NOT NULL")) == 1
    assert "not installed any more" in bare_cli("classify", music_folder / "mp3.mp3", code=2).stderr


def test_a_recording_too_short_for_the_built_in_encoder_is_indexed_with_the_reason(cli, tmp_path):
    cli.model = "rhythm"
    (tmp_path / "m").mkdir()
    write_audio(tmp_path / "m" / "blip.wav", "wav", 0.2)
    summary = cli.json("scan", tmp_path / "m", code=1)
    assert (summary["embedded"], summary["failed"]) == (0, 1)
    assert "too short" in summary["failures"][0]["reason"]


def test_the_built_in_encoder_is_listed_and_described(cli):
    assert [m["name"] for m in cli.json("models", "list")["built_in"]] == ["rhythm", "musicnn"]
    text = cli("models", "list").stdout
    assert "built in:\n  rhythm" in text
    assert "no download" in text
    found = cli.json("models", "info", "rhythm")
    assert (found["vector_width"], found["encoder_id"]) == (1668, load_encoder("rhythm").id)


def test_ctrl_c_keeps_what_is_done_and_the_next_scan_goes_on(cli, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    for seed in range(12):
        write_audio(folder / f"{seed}.flac", "flac", 20.0, seed=seed)
    process = cli.process("scan", folder, "--json", "-v")
    for line in process.stderr:
        if line.startswith("2/"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    done = json.loads(out)["embedded"]
    assert 2 <= done < 12
    assert list(folder.glob(".*")) == []
    assert rows(cli, "SELECT state FROM runs ORDER BY id DESC LIMIT 1") == [{"state": "interrupted"}]
    rest = cli.json("scan", folder)
    assert rest["embedded"] == 12 - done
    assert len(rows(cli, "SELECT 1 FROM embeddings")) == 12
    assert all(genre_of(f) for f in folder.iterdir())


@pytest.mark.parametrize("seed", range(4))
def test_after_a_kill_at_any_moment_the_next_scan_makes_everything_right(cli, tmp_path, seed):
    """After a crash at any moment each file is wholly old or wholly new, and the library agrees after the next scan."""
    folder = tmp_path / "m"
    folder.mkdir()
    for n, container in enumerate(("mp3", "flac", "vorbis", "m4a", "wav", "aiff")):
        write_audio(folder / container, container, 1.0, seed=n)
    old = contents(folder)
    reference = tmp_path / "reference"
    shutil.copytree(folder, reference)
    process = cli.process("scan", folder)
    time.sleep(random.Random(seed).uniform(0.8, 3.5))
    process.kill()
    process.communicate()
    for name, data in contents(folder).items():
        if not name.endswith(".indexer-tmp"):
            assert data == old[name] or genre_of(folder / name), f"{name} is neither old nor new"
    cli("scan", folder)
    assert list(folder.glob(".*")) == []
    assert all(genre_of(f) for f in folder.iterdir())
    assert rows(cli, "SELECT 1 FROM tag_writes WHERE state = 'intended'") == []
    assert cli.json("scan", folder)["tags_written"] == 0


@pytest.mark.parametrize("command", [("scan", "."), ("relabel",), ("tags", "undo", "--all")])
def test_while_one_process_works_another_is_told_who(cli, command):
    with library_lock(cli.db):
        result = cli(*command, code=75)
    assert f"process {os.getpid()}" in result.stderr


def test_relabel_uses_the_cache_alone(cli, music_folder):
    cli("scan", music_folder, "--no-tags")
    shutil.rmtree(music_folder)
    found = cli.json("relabel", env={"INDEXER_MIN_CONFIDENCE": "1"})
    assert (found["classified"], found["undecided"]) == (6, 6)


def test_classify_looks_and_stores_nothing(cli, music_folder):
    before = contents(music_folder)
    write_audio(music_folder / "long.flac", "flac", 25.0)
    results = cli.json("classify", music_folder / "mp3.mp3", music_folder / "long.flac")
    assert [Path(r["path"]).name for r in results] == ["mp3.mp3", "long.flac"]
    assert set(results[0]) == {
        "path",
        "genre",
        "confidence",
        "threshold",
        "decided",
        "reason",
        "second_genre",
        "damage",
        "heard",
        "electronic",
        *Analysis(1, 0.0).facts(),
        "lossy_suspect",
        "tag_bpm",
        "tag_key",
        "scores",
        "timeline",
    }
    assert results[0]["confidence"] == max(results[0]["scores"].values())
    assert [t["start_s"] for t in results[1]["timeline"]] == [0.0, 10.01, 20.02]
    assert contents(music_folder) == {**before, "long.flac": (music_folder / "long.flac").read_bytes()}
    assert not cli.db.exists()
    text = cli("classify", music_folder / "mp3.mp3").stdout
    assert "█" in text
    found = [r["path"] for r in cli.json("classify", music_folder)]
    assert found == sorted(str(path) for path in music_folder.rglob("*") if path.is_file())
    (music_folder / "bad.mp3").write_bytes(b"nothing")
    results = cli.json("classify", music_folder / "bad.mp3", music_folder / "mp3.mp3", code=1)
    assert "error" in results[0]
    assert "genre" in results[1]


def test_classify_without_a_head_says_what_is_missing(bare_cli, music_folder):
    (line,) = bare_cli("classify", music_folder / "mp3.mp3", code=2).stderr.splitlines()
    assert "musicnn, a built-in encoder (sound to numbers), has no head (numbers to a genre)" in line
    assert "indexer models download" in line


def test_status_tells_what_there_is(cli, music_folder):
    (music_folder / "bad.mp3").write_bytes(b"x" * 5000)
    cli("scan", music_folder, code=1)
    found = cli.json("status")
    assert found["files"] == {"ready": 6, "unreadable": 1}
    assert found["embedded"] == found["recordings"] == 6
    assert found["head"]["kind"] == "audioset"
    assert (found["head"]["threshold"], found["head"]["decided_from"]) == (0.8, 0.0)  # min_confidence is 0 here
    assert sum(g["recordings"] for g in found["genres"]) == 6
    assert found["tags_written"] == 6
    assert found["failures"][0]["files"] == 1
    assert found["last_run"]["state"] == "done"
    text = cli("status").stdout
    assert "6 ready, 1 unreadable" in text
    assert str(music_folder) in text


def test_a_run_whose_process_was_killed_is_not_running(quick_cli, tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    write_audio(folder / "a", "wav", 2.0, seed=1)
    quick_cli("scan", folder)
    with contextlib.closing(sqlite3.connect(quick_cli.db)) as conn, conn:
        conn.execute(
            "INSERT INTO runs (command, state, started_at, summary) VALUES ('scan', 'running',"
            " '2026-11-27T11:23:00.000Z', '{\"elapsed_s\": 61.5, \"done\": 3}')"
        )
    with library_lock(quick_cli.db):
        assert quick_cli.json("status")["last_run"]["state"] == "running"
    last = quick_cli.json("status")["last_run"]
    assert (last["state"], last["finished_at"]) == ("interrupted", "2026-11-27T11:24:01.500Z")
    assert "interrupted at 2026-11-27T11:24:01.500Z; `indexer scan` goes on" in quick_cli("status").stdout
    assert Pages(quick_cli.db).json("/-/now.json")["run"]["state"] == "interrupted"
    quick_cli("scan", folder)
    assert quick_cli.json("status")["last_run"]["state"] == "done"


def test_what_cannot_be_written_now_is_counted_said_once_and_written_later(quick_cli, tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    paths = [write_audio(folder / str(n), "wav", 2.0, seed=n) for n in range(3)]
    for path in paths[:2]:
        path.chmod(0o444)
    result = quick_cli("scan", folder)
    assert "2 decided genres are not in the files yet: `indexer scan` or" in result.stdout
    assert result.stderr.count("genre not written: read-only") == 2
    assert quick_cli.json("status")["not_written"] == 2
    assert "2 decided genres are not in the files yet" in quick_cli("status").stdout
    assert "2 decided genres are not in the files yet" in Pages(quick_cli.db).get("/").text
    again = quick_cli("scan", folder)
    assert "2 decided genres are not" in again.stdout
    assert "read-only" not in again.stderr
    assert len(rows(quick_cli, "SELECT 1 FROM tag_writes WHERE state = 'refused'")) == 2
    paths[0].chmod(0o644)
    assert quick_cli.json("scan", folder)["tags_written"] == 1
    paths[1].chmod(0o644)
    assert quick_cli.json("scan", folder)["tags_written"] == 1
    assert quick_cli.json("status")["not_written"] == 0
    assert all(genre_of(path) for path in paths)


def test_what_no_file_holds_any_more_counts_no_longer(quick_cli, tmp_path):
    """A file was replaced, another deleted; a drive that is away still counts."""
    folder = tmp_path / "music"
    folder.mkdir()
    for n in range(3):
        write_audio(folder / str(n), "wav", 2.0, seed=n)
    quick_cli("scan", folder)
    write_audio(folder / "0", "wav", 3.0, seed=7)
    (folder / "1.wav").unlink()
    quick_cli("scan", folder)
    found = quick_cli.json("status")
    assert (found["recordings"], found["embedded"]) == (2, 2)
    folder.rename(tmp_path / "away")
    quick_cli("scan", folder, code=1)
    found = quick_cli.json("status")
    assert (found["recordings"], found["embedded"], found["roots"][0]["state"]) == (3, 3, "offline")


@pytest.mark.parametrize("slow", ["encoder", "reading"])
def test_a_scan_says_what_held_it_up(cli, music_folder, monkeypatch, slow):
    cli.model = "rhythm"
    encode, decode = RhythmEncoder.encode, Worker.decode

    def slow_encode(self, units):  # called once for several files, beside which reading goes on
        time.sleep(1.0)
        return encode(self, units)

    def slow_decode(self, path, **kwargs):
        time.sleep(0.5)
        yield from decode(self, path, **kwargs)

    monkeypatch.setattr(
        *{"encoder": (RhythmEncoder, "encode", slow_encode), "reading": (Worker, "decode", slow_decode)}[slow]
    )
    found = cli.json("scan", music_folder, "--no-tags", "--jobs", "1")
    assert set(found["busy"]) == {"reading", "encoder", "loading the model", "library"}
    assert all(0 <= share <= 1.01 for share in found["busy"].values())
    assert max(found["busy"], key=found["busy"].get) == slow
    text = cli("scan", music_folder, "--no-tags", "--jobs", "1", "--force", "-v").stdout
    assert f"bottleneck: {slow} (busy: {slow} " in text


def test_more_events_at_once_than_share_a_transaction_are_all_seen(tmp_path):
    from tests.benchmarks import bench_cluster

    (tmp_path / "state").mkdir()
    bench_cluster.make_files(tmp_path / "music", 2 * pipeline.GROUP + 1)
    executor = bench_cluster.Instant(analysed=False)
    found = bench_cluster.scan(tmp_path / "state", tmp_path / "music", executor=executor)[2]
    assert found["embedded"] == found["files"] == 2 * pipeline.GROUP + 1


def test_loading_the_weights_holds_up_no_other_writer(cli, music_folder, monkeypatch):
    """It takes many seconds, and `indexer correct` and the pages may want to write meanwhile."""
    written = []

    def load(*args, **options):
        with contextlib.closing(sqlite3.connect(cli.db, timeout=0.2)) as conn:
            conn.execute("BEGIN IMMEDIATE")
            written.append(conn.execute("UPDATE runs SET command = command").rowcount)
            conn.rollback()
        return load_encoder(*args, **options)

    monkeypatch.setattr("indexer.models.choice.load_encoder", load)
    assert cli.json("scan", music_folder, "--no-tags")["embedded"] == 6
    assert written == [1]
