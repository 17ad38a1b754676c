"""Writes and undoes, checked by programs that share no code with ours: FFmpeg (through PyAV), TagLib and exiftool.

Over every container that the program writes, synthesised, and every writable file of the folder of real odd files. The
table in docs/containers.md is what these tests measure. TagLib and exiftool are asked where they are installed.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import av
import mutagen
import mutagen.id3
import numpy as np
import pytest

from indexer.errors import FileError
from indexer.files.audio.identity import sniff
from indexer.files.containers import CONTAINERS as CONTAINERS_KNOWN
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.write import commit, prepare
from tests.helpers.synth import CONTAINERS, write_audio

EDIT = GenreEdit(("Drum & Bass",), "drum and bass", 0.93, "linear@12345678")
WANTED = "Drum & Bass"
DOCS = Path(__file__).parents[1] / "docs" / "containers.md"
LABELS = {
    "mp3": "MP3",
    "flac": "FLAC",
    "vorbis": "Ogg Vorbis",
    "opus": "Opus",
    "oggflac": "Ogg FLAC",
    "m4a": "M4A (AAC)",
    "alac": "M4A (ALAC)",
    "wav": "WAV",
    "aiff": "AIFF",
    "wavpack": "WavPack",
    "wma": "WMA (ASF)",
}
# TagLib and exiftool choose a reader by the file's ending
ENDINGS = {
    "mp3": ".mp3",
    "vorbis": ".ogg",
    "speex": ".spx",
    "oggflac": ".oga",
    "mp4": ".m4a",
    "asf": ".wma",
    "wavpack": ".wv",
    "musepack": ".mpc",
}

# Some readers look at ID3v1, APEv2 or RIFF INFO only where no ID3v2 tag stands: a new one would hide the others from
# them.
NOT_HIDDEN = (
    "Where only RIFF INFO (WAV) or an APEv2 tag (MP3, TTA) stands,"
    " the genre goes into that tag and no ID3v2 tag is made."
)
# FFmpeg's decoder of MPEG-4 ALS gives other samples every time it decodes this file: the packets are compared instead.
UNSTEADY_DECODER = {"mp4_codec_als.mp4"}
# Sound before its header, and a version of Monkey's Audio: FFmpeg reads no tag of these, whoever wrote it.
FFMPEG_READS_NO_TAG = {"Porder.aif", "mac-399-tagged.ape"}
# A version of these tools may not know: they then see no tag at all, whoever wrote it.
MAY_BE_UNKNOWN = {"exiftool": {"speex", "wavpack", "musepack", "dsf"}, "TagLib": {"dsf"}}
EXIFTOOL_READS_NO_TAG = {"corrupt_metadata.ogg", "non-full-meta.m4a", "non_full_meta_atom.m4a"}


# --- the readers -----------------------------------------------------------------------------------------------------


def pcm(path: Path) -> str:
    """Digest of all decoded samples; how decoding ended, where it did not go through."""
    digest, end = hashlib.sha256(), ""
    try:
        with av.open(str(path), metadata_errors="replace") as file:
            for frame in file.decode(audio=0):
                digest.update(np.ascontiguousarray(frame.to_ndarray()).tobytes())
    except (av.FFmpegError, MemoryError, IndexError) as error:
        end = type(error).__name__
    return digest.hexdigest() + end


def packets(path: Path) -> str:
    """Digest of the undecoded sound as FFmpeg takes it out of the container."""
    digest = hashlib.sha256()
    with av.open(str(path)) as file:
        for packet in file.demux(audio=0):
            digest.update(bytes(packet))
    return digest.hexdigest()


def seen_by_ffmpeg(path: Path) -> dict[str, str] | None:
    """The metadata of container and streams, as ffprobe prints them; None where FFmpeg cannot open the file."""
    try:
        with av.open(str(path), metadata_errors="replace") as file:
            found = dict(file.metadata)
            for stream in file.streams:
                found |= dict(stream.metadata)
    except (av.FFmpegError, MemoryError):
        return None
    return {key.upper(): value for key, value in found.items()}


ASK_TAGLIB = """
import json, sys, taglib
found = {}
for path in json.load(sys.stdin):
    try:
        file = taglib.File(path)
    except OSError:
        continue
    found[path] = file.tags
    file.close()
print(json.dumps(found))
"""


@functools.cache
def python_with_taglib() -> str | None:
    """An interpreter that has python3-taglib: this one or the system's."""
    for python in (sys.executable, shutil.which("python3", path=os.defpath)):
        if python and subprocess.run([python, "-c", "import taglib"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def ask_taglib(paths: list[Path]) -> dict[str, dict[str, list[str]]] | None:
    """All tags of many files; files that TagLib cannot open are left out. None where there is no TagLib."""
    if python_with_taglib() is None:
        return None
    done = subprocess.run([python_with_taglib(), "-c", ASK_TAGLIB], input=json.dumps([str(p) for p in paths]),
                          capture_output=True, text=True, check=True)  # fmt: skip
    return json.loads(done.stdout)


def genres_by_taglib(paths: list[Path]) -> dict[str, set[str]] | None:
    found = ask_taglib(paths)
    return None if found is None else {path: set(tags.get("GENRE", [])) for path, tags in found.items()}


def genres_by_exiftool(paths: list[Path]) -> dict[str, set[str]] | None:
    """Every genre that exiftool finds anywhere in the files; None where there is no exiftool."""
    if shutil.which("exiftool") is None:
        return None
    done = subprocess.run(
        ["exiftool", "-json", "-q", "-a", "-G1", "-Genre", *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    return {d.pop("SourceFile"): {str(value) for value in d.values()} for d in json.loads(done.stdout or "[]")}


OTHERS = {"TagLib": genres_by_taglib, "exiftool": genres_by_exiftool}


def others_only(found: dict | None) -> dict | None:
    """What is neither genre nor ours."""
    return found and {
        key: value
        for key, value in found.items()
        if key != "GENRE" and not key.startswith("INDEXER_") and key not in ("IXGN", "IXOR")
    }


# --- writing and undoing ---------------------------------------------------------------------------------------------


def container_of(path: Path) -> str:
    with path.open("rb") as file:
        return sniff(file)


def write(path: Path, edit: GenreEdit | None = EDIT) -> None:
    prepared = prepare(str(path), container_of(path), edit)
    assert commit(prepared, intend=lambda _: 1, done=lambda _: None, drop=lambda *_: None)


def padding(path: Path, container: str) -> int:
    """Free bytes of the tag that carries our fields."""
    with path.open("rb") as file:
        block = CONTAINERS_KNOWN[container].places[0].load(file)
        return block.room - block.length() if block.exists and block.padded else 0


def field_names(path: Path) -> set[str]:
    """Tags of a file by the names of their format, as mutagen and a look at the RIFF entries tell them."""
    tags = mutagen.File(path).tags
    keys = list(tags.keys()) if tags is not None else []
    if isinstance(tags, mutagen.id3.ID3):
        keys = [f"ID3v2.{tags.version[1]} {key}" for key in keys]
    elif container_of(path) in {
        "flac",
        "vorbis",
        "opus",
        "oggflac",
    }:  # mutagen shows the names of Vorbis comments in small letters
        keys = [key.upper() for key in keys]
    names = set(keys)
    return names | ({"RIFF INFO IGNR"} if b"IGNR" in path.read_bytes() else set())


def give_genre(path: Path) -> None:
    """A user's genre and title, written by mutagen."""
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    if isinstance(file.tags, mutagen.id3.ID3):
        file.tags.add(mutagen.id3.TCON(encoding=3, text=["House"]))
        file.tags.add(mutagen.id3.TIT2(encoding=3, text=["Title"]))
    else:
        genre, title = {"mp4": ("\xa9gen", "\xa9nam"), "asf": ("WM/Genre", "Title")}.get(
            container_of(path), ("Genre", "Title")
        )
        file.tags[genre], file.tags[title] = ["House"], ["Title"]
    file.save()


@dataclass
class Outcome:
    """One synthesised file through write and undo."""

    written: Path
    undone: Path
    before: Path
    new_fields: set[str] = field(default_factory=set)
    grown_bytes: int = 0
    padding_bytes: int = 0

    @property
    def identical(self) -> bool:
        return self.undone.read_bytes() == self.before.read_bytes()


def through(path: Path) -> Outcome:
    """Copies of the file as it was, written, and undone."""
    before, written, undone = (path.with_stem(f"{path.stem}-{step}") for step in ("before", "written", "undone"))
    container = container_of(path)
    shutil.copyfile(path, before)
    write(path)
    shutil.copyfile(path, written)
    write(path, None)
    path.rename(undone)
    more_padding = padding(written, container) - padding(before, container)
    return Outcome(written, undone, before, field_names(written) - field_names(before),
                   written.stat().st_size - before.stat().st_size - more_padding, more_padding)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _hasty():
    """Without fsync: these tests are not about power cuts, and 2,000 waits for the disk take long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def synthesised(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Outcome]:
    """(container, had a genre before) -> outcome, for every container that can be written."""
    folder = tmp_path_factory.mktemp("synthesised")
    found = {}
    for name in LABELS:
        plain = write_audio(folder / f"{name}{CONTAINERS[name][0]}", name, 0.3)
        tagged = plain.with_stem(f"{name}-tagged")
        shutil.copyfile(plain, tagged)
        give_genre(tagged)
        found |= {(name, False): through(plain), (name, True): through(tagged)}
    return found


def test_every_synthesised_container_but_the_one_without_tags_is_here():
    assert set(LABELS) == set(CONTAINERS) - {"aac"}


@pytest.mark.parametrize("tagged", [False, True], ids=["no genre before", "a genre before"])
@pytest.mark.parametrize("name", LABELS)
def test_ffmpeg_hears_the_same_and_sees_the_genre(synthesised, name, tagged):
    it = synthesised[name, tagged]
    assert pcm(it.before) == pcm(it.written) == pcm(it.undone)
    assert re.fullmatch("[0-9a-f]{64}", pcm(it.before))
    before, written, undone = map(seen_by_ffmpeg, (it.before, it.written, it.undone))
    assert (before.get("GENRE"), written.get("GENRE")) == ("House" if tagged else None, WANTED)
    assert others_only(written) == others_only(before) == others_only(undone)
    assert undone == before
    assert it.identical


@pytest.mark.parametrize("tool", OTHERS)
def test_other_readers_see_the_genre_come_and_go(synthesised, tool):
    outcomes = list(synthesised.items())
    for step, wanted in (("written", {False: {WANTED}, True: {WANTED}}), ("undone", {False: set(), True: {"House"}})):
        paths = [getattr(it, step) for _, it in outcomes]
        found = OTHERS[tool](paths)
        if found is None:
            pytest.skip(f"{tool} is not installed here")
        for ((name, tagged), _), path in zip(outcomes, paths, strict=True):
            if name not in MAY_BE_UNKNOWN[tool]:
                assert found[str(path)] == wanted[tagged], (name, step)


def test_taglib_sees_no_other_tag_change(synthesised):
    if python_with_taglib() is None:
        pytest.skip("TagLib is not installed here")
    outcomes = list(synthesised.values())
    before, written, undone = (
        ask_taglib([getattr(it, step) for it in outcomes]) for step in ("before", "written", "undone")
    )
    for it in outcomes:
        assert others_only(written[str(it.written)]) == others_only(before[str(it.before)]), it.written.name
        assert undone[str(it.undone)] == before[str(it.before)], it.undone.name


# --- the table -------------------------------------------------------------------------------------------------------

COLUMNS = (
    "container",
    "genre goes to",
    "our own fields",
    "bytes added",
    "padding added",
    "decoded audio",
    "after undo",
    "FFmpeg",
    "TagLib",
    "exiftool",
)


def measured_table(synthesised: dict[tuple[str, bool], Outcome]) -> list[dict[str, str | None]]:
    """One row a container; None where the tool to ask is missing."""
    written = [synthesised[name, False].written for name in LABELS]
    answers = {tool: ask(written) for tool, ask in OTHERS.items()}
    rows = []
    for name, label in LABELS.items():
        it, tagged = synthesised[name, False], synthesised[name, True]
        same_sound = all(pcm(o.before) == pcm(o.written) == pcm(o.undone) for o in (it, tagged))
        own = {f for f in it.new_fields if "INDEXER_" in f}
        row = {
            "container": label,
            "genre goes to": _names(it.new_fields - own),
            "our own fields": _names(own),
            "bytes added": f"{it.grown_bytes:,}",
            "padding added": f"{it.padding_bytes:,}" if it.padding_bytes > 100 else "none",
            "decoded audio": "bit-identical" if same_sound else "CHANGED",
            "after undo": "byte for byte the same" if it.identical and tagged.identical else "DIFFERENT",
            "FFmpeg": "sees it" if (seen_by_ffmpeg(it.written) or {}).get("GENRE") == WANTED else "no",
        }
        for tool, found in answers.items():
            row[tool] = None if found is None else "sees it" if found.get(str(it.written)) == {WANTED} else "no"
        rows.append(row)
    return rows


def _names(names: set[str]) -> str:
    return ", ".join(
        f"`{name}`" for name in sorted(names, key=lambda name: (name.startswith("RIFF"), "ORIGINAL" in name))
    )


def committed_table() -> dict[str, dict[str, str]]:
    """The rows between the markers, by container."""
    text = DOCS.read_text(encoding="utf-8") if DOCS.exists() else ""
    found = re.search(r"(?s)<!-- table -->\n(.*?)\n<!-- end -->", text)
    lines = (
        [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in found.group(1).splitlines()]
        if found
        else []
    )
    return {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]}


def test_the_table_in_the_docs_is_what_was_measured(synthesised):
    committed = committed_table()
    rows = measured_table(synthesised)
    for row in rows:
        known = committed.get(row["container"], {})
        for tool in OTHERS:  # not asked here, or a newer version that has learnt to read the container
            if row[tool] is None or (known.get(tool) == "no" and row[tool] == "sees it"):
                row[tool] = known.get(tool, "not asked")
    header = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    table = "\n".join([*header, *("| " + " | ".join(str(row[c]) for c in COLUMNS) + " |" for row in rows)])
    assert committed == {row["container"]: row for row in rows}, (
        f"put this between the markers of {DOCS.name}:\n{table}"
    )


def test_the_docs_say_when_no_new_tag_is_made():
    assert NOT_HIDDEN in " ".join(DOCS.read_text(encoding="utf-8").split())


# --- real files ------------------------------------------------------------------------------------------------------


@dataclass
class Real:
    """One file of the folder, with a written copy under the ending that its content asks for."""

    source: Path
    container: str
    written: Path

    def sounds(self) -> tuple[str, str]:
        """Digest of the sound of the original and of the copy as it stands."""
        heard = packets if self.source.name in UNSTEADY_DECODER else pcm
        return heard(self.source), heard(self.written)


@pytest.fixture(scope="module")
def real_files(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Real]:
    """Every file of the folder that a genre can be written to, written."""
    folder = tmp_path_factory.mktemp("real")
    found = []
    for number, source in enumerate(sorted(p for p in fixtures.rglob("*") if p.is_file())):
        container = container_of(source)
        path = folder / f"{number:03}{ENDINGS.get(container, f'.{container}')}"
        shutil.copyfile(source, path)
        try:
            write(path)
        except FileError:
            path.unlink()
        else:
            found.append(Real(source, container, path))
    assert len(found) > 350
    return found


def test_ffmpeg_hears_the_same_in_every_real_file_and_sees_the_genre(real_files):
    heard = 0
    for it in real_files:
        sound, sound_after = it.sounds()
        assert sound_after == sound, it.source
        heard += len(sound) == 64
        before, after = seen_by_ffmpeg(it.source), seen_by_ffmpeg(it.written)
        assert (before is None) == (after is None), it.source
        if after is not None and it.source.name not in FFMPEG_READS_NO_TAG:
            assert after.get("GENRE") == WANTED, it.source
            assert others_only(after) == others_only(before), it.source
    assert heard > 330


def test_taglib_sees_no_other_tag_change_in_any_real_file(real_files, tmp_path):
    if python_with_taglib() is None:
        pytest.skip("TagLib is not installed here")
    copies = {it.source: tmp_path / it.written.name for it in real_files}
    for source, copy in copies.items():
        shutil.copyfile(source, copy)
    before, after = ask_taglib(list(copies.values())), ask_taglib([it.written for it in real_files])
    compared = 0
    for it in real_files:
        known = before.get(str(copies[it.source]))
        if known is not None:
            # the last frame of an unpadded tag with an extended header is seen only after the write gave it padding
            assert others_only(known).items() <= others_only(after[str(it.written)]).items(), it.source
            compared += 1
    assert compared > 240


@pytest.mark.parametrize("tool", OTHERS)
def test_other_readers_see_the_genre_in_every_real_file(real_files, tool):
    found = OTHERS[tool]([it.written for it in real_files])
    if found is None:
        pytest.skip(f"{tool} is not installed here")
    seen = 0
    for it in real_files:
        genres = found.get(str(it.written), set())
        seen += genres == {WANTED}
        if not genres and (it.container in MAY_BE_UNKNOWN[tool] or it.source.name in EXIFTOOL_READS_NO_TAG):
            continue
        assert genres == {WANTED}, it.source
    assert seen > 330


def test_every_real_file_comes_back_byte_for_byte(real_files):
    different = []
    for it in real_files:
        write(it.written, None)
        if it.written.read_bytes() != it.source.read_bytes():
            different.append(it.source.name)
    assert different == []
