"""A folder of files that are not music: the scan ends, names each file with its reason and changes no byte."""

import hashlib
import json
import pickle
import random
import shutil
from pathlib import Path

import pytest

from indexer.files.containers import AUDIO_SUFFIXES
from tests.benchmarks.fuzz_reading import Inventory, take_all
from tests.benchmarks.fuzz_tags import Fuzzer, fixture_sources, synthesised_sources
from tests.helpers.contents import rows
from tests.helpers.synth import CONTAINERS, write_audio

KINDS = {
    "empty": b"",
    "zeros": bytes(30_000),
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 20,
    "random": random.Random(1).randbytes(30_000),
}


def digests(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def check(cli, folder: Path) -> dict[str, str]:
    """Scan, writing tags nowhere sure enough; returns path -> reason of what was listed."""
    before = digests(folder)
    result = cli("scan", folder, "--json", code=1, env={"INDEXER_MIN_CONFIDENCE": "1"})
    summary = json.loads(result.stdout)
    assert digests(folder) == before
    assert "Traceback" not in result.stderr
    reasons = {f["path"]: f["reason"] for f in summary["failures"]}
    assert len(reasons) == summary["failed"]
    unread = rows(cli, "SELECT path_text, reason FROM files WHERE state IN ('unreadable', 'unsupported')")
    assert len(unread) == summary["unreadable"] + summary["unsupported"]
    assert {r["path_text"] for r in unread} <= set(reasons)
    assert all(r["reason"] and "\n" not in r["reason"] for r in unread)
    assert (
        cli.json("scan", folder, env={"INDEXER_MIN_CONFIDENCE": "1"})["failed"] == 0
    )  # not tried again until they change
    return reasons


def test_junk_and_parts_under_every_file_ending(cli, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    for suffix in AUDIO_SUFFIXES:
        for kind, data in KINDS.items():
            (folder / f"{kind}{suffix}").write_bytes(data)
    for container in CONTAINERS:
        whole = write_audio(tmp_path / f"whole{CONTAINERS[container][0]}", container, 4.0)
        # Of the files that state their length, a fifth is too little. The others are left out: what is there is heard.
        if container not in {"vorbis", "opus", "oggflac", "aac"}:
            (folder / f"part {container}{whole.suffix}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 5])
    write_audio(folder / "fine.mp3", "mp3", 1.0)
    reasons = check(cli, folder)
    assert len(reasons) == len(list(folder.iterdir())) - 1
    assert all("truncated" in r or "damaged" in r or "no audio" in r for p, r in reasons.items() if "/part " in p), (
        reasons
    )
    assert {r for p, r in reasons.items() if "/empty." in p} == {"empty file"}
    assert all("HTML" in r for p, r in reasons.items() if "/html." in p)


def test_every_odd_file_that_other_projects_collected(cli, tmp_path, fixtures):
    folder = tmp_path / "m"
    shutil.copytree(fixtures, folder)
    reasons = check(cli, folder)
    found = rows(cli, "SELECT count(*) AS n FROM files WHERE state = 'ready'")[0]["n"]
    assert found > 300
    assert len(reasons) > 100


def test_whatever_the_libraries_raise_ends_as_a_reason(tmp_path, monkeypatch):
    """A slice of tests/benchmarks/fuzz_reading.py: mutagen, PyAV or soundfile raise, the file is heard or refused."""
    (tmp_path / "sources").mkdir()
    fuzzer = Fuzzer([*fixture_sources(), *synthesised_sources(tmp_path / "sources")], seed=15)
    inventory = Inventory()
    inventory.watch_readers(monkeypatch)
    take_all(inventory, fuzzer, range(300), tmp_path)
    assert inventory.failures == []
    assert inventory.cases == 300
    assert min(inventory.decoded, inventory.unread) > 20
    assert len({kind for what, kind in inventory.raised if what == "tags"}) >= 5
    assert len({kind for what, kind in inventory.raised if what == "sound"}) >= 3


class Evil:
    """Runs a command when it is unpickled without care."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("inside", [lambda evil: evil, lambda evil: {"model": {"cls_token": evil}}])
def test_a_checkpoint_that_is_a_malicious_pickle_runs_no_code(cli, music_folder, tmp_path, inside):
    marker = tmp_path / "marker"
    checkpoint = tmp_path / "m2d_vit_base-80x608p16x16-evil.pth"
    checkpoint.write_bytes(pickle.dumps(inside(Evil(marker))))
    for command in (("scan", music_folder), ("classify", music_folder / "mp3.mp3"), ("models", "info", checkpoint)):
        result = cli(*command, code=2, env={"INDEXER_ENCODER": str(checkpoint)})
        assert str(checkpoint) in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    cli("models", "add", checkpoint, code=2)
    assert not marker.exists()
    pickle.loads(checkpoint.read_bytes())
    assert marker.exists()  # loading without care does run the code


def test_a_named_file_or_folder_that_is_not_there_is_one_line(cli, tmp_path):
    result = cli("scan", tmp_path / "none", code=2)
    assert f"{tmp_path / 'none'}: no such folder or file" in result.stderr


def test_an_encoder_that_is_not_there_names_what_there_is(cli, music_folder):
    result = cli("scan", music_folder, code=2, env={"INDEXER_ENCODER": "m2d_vit"})
    assert "m2d_vit" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
