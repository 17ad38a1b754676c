"""What hostile models, files and requests cost: the longest time and the largest memory of each kind.

    python -m tests.benchmarks.bench_hostile [models] [files] [requests]

Each model and file is given to a process of its own, as a person would; memory is the largest resident size of that
process or of any that it started. The requests go to one `indexer serve` on a library of 40 tracks; its memory is that
of the server and of its SQL processes together. Every one must end with an exit code or an answer; the benchmark prints
what took longest and what was largest, beside the same for an honest one.
"""

import contextlib
import json
import os
import pickle
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from indexer.encoders.load import load_encoder
from indexer.heads.linear import LinearHead
from tests.benchmarks.fuzz_tags import fixture_sources, synthesised_sources
from tests.helpers import checkpoints, endless
from tests.helpers.heads import rewrite
from tests.helpers.synth import write_audio

LIMIT_S = 1200.0
MB = 1 << 20


# A process that starts another counts as its memory until that runs, so one that takes little starts it.
MEASURED = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
open(sys.argv[1], "w").write(f"{usage.ru_maxrss} {os.waitstatus_to_exitcode(status)}")
"""


def run(*arguments: object, environ: dict[str, str]) -> tuple[float, int, int, str]:
    """Seconds, largest resident bytes, exit code and last line of `indexer` with these arguments."""
    with tempfile.TemporaryFile() as said, tempfile.NamedTemporaryFile("r") as usage:
        began_s = time.monotonic()
        subprocess.run(
            [sys.executable, "-S", "-c", MEASURED, usage.name, sys.executable, "-m", "indexer", *map(str, arguments)],
            env={**os.environ, **environ}, stdout=said, stderr=said, check=True,
        )  # fmt: skip
        took_s = time.monotonic() - began_s
        largest_kb, code = map(int, usage.read().split())
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").splitlines() or [""]
    assert not any(line.startswith("Traceback") for line in lines), lines
    return took_s, largest_kb * 1024, code, lines[-1][:120]


def safetensors_file(path: Path, header: bytes, data: bytes = b"", *, claimed: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if claimed is None else claimed) + header + data)
    return path


def hostile_heads(folder: Path, honest: Path) -> Iterator[Path]:
    def about(name: str, **changes: object) -> Path:
        path = folder / f"{name}.safetensors"
        path.write_bytes(honest.read_bytes())
        rewrite(path, about=changes)
        return path

    yield about("label of 1 MB", labels=["x" * MB, "b"])
    yield about("1,000,000 labels", labels=[f"{n:x}" for n in range(1_000_000)])
    yield about("labels of escapes", labels=["\x1b]0;x\x07", "b"])
    yield about("labels of surrogates", labels=["\ud800", "b"])
    yield about("threshold of 10^400", threshold=10**400)
    yield about("training of 15 MB", training={"x": "y" * 15 * MB})
    yield about("training of 1,000,000 numbers", training={"x": list(range(1_000_000))})
    nested = json.dumps({"__metadata__": {"indexer": "[" * 5_000_000}}).encode()
    yield safetensors_file(folder / "nested 5,000,000 deep.safetensors", nested)
    yield safetensors_file(folder / "header nested.safetensors", b'{"a":' * 2_000_000)
    yield safetensors_file(folder / "header of 2^63.safetensors", b"{}", claimed=1 << 63)
    yield safetensors_file(folder / "header of 16 MB of blanks.safetensors", b"{}" + b" " * (16 * MB - 2))
    claims = {"weight": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}}
    yield safetensors_file(folder / "tensor of 2^62.safetensors", json.dumps(claims).encode())
    many = {f"t{n}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]} for n in range(200_000)}
    yield safetensors_file(folder / "200,000 tensors.safetensors", json.dumps(many).encode(), bytes(800_000))
    text = {"__metadata__": {"indexer": json.dumps({"kind": "linear", "format_version": 1})}}
    checks = {f"novelty.{n}": value for n, value in enumerate(many.values())}
    yield safetensors_file(folder / "200,000 checks.safetensors", json.dumps(text | checks).encode(), bytes(800_000))
    whole = honest.read_bytes()
    cut = folder / "cut off.safetensors"
    cut.write_bytes(whole[:-9])
    yield cut


def hostile_checkpoints(folder: Path) -> Iterator[Path]:
    class Attack:
        def __reduce__(self):
            return os.system, ("true",)

    def made(name: str, content: bytes) -> Path:
        path = folder / f"{name}.pth"
        path.write_bytes(content)
        return path

    yield made("a pickle that runs a program", pickle.dumps({"model": Attack()}))
    yield made("a pickle nested 1,000,000 deep", b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".")
    yield made("a pickle of 10^9 memo entries", b"\x80\x02" + b"]r" + struct.pack("<I", 10**9) + b".")
    yield made("a pickle of a long of 2 GB", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1")
    for name, blocks in (("3 GB of zeros in a zip", [bytes(MB)] * 3000), ("noise in a zip", [os.urandom(MB)])):
        path = folder / f"{name}.zip"
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("m2d_vit_base-80x608p16x16-221006-mr7/checkpoint-300.pth", "w", force_zip64=True) as member,
        ):
            for block in blocks:
                member.write(block)
        yield path
    path = folder / "100,000 members.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(100_000):
            archive.writestr(zipfile.ZipInfo(f"{n}/checkpoint-300.pth"), b"")
    yield path
    state = checkpoints.published_state(checkpoints.weights())
    state["model" if "model" in state else next(iter(state))] = {}
    yield checkpoints.write_pth(folder / "empty.pth", state)


def hostile_files(folder: Path, sources: int) -> Iterator[Path]:
    def made(name: str, content: bytes) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    yield made("five days.flac", endless.silent_flac(55_000))
    yield made("trun of 100 MB.m4a", endless.fragmented_m4a(bytes(100 * MB), b"x" * 1000))
    opus = write_audio(folder / "opus", "opus", 2.0).read_bytes()
    yield made("a million empty pages.opus", opus[:4000] + endless.empty_pages(7, 1_000_000) + opus[4000:])
    atoms = b"".join(struct.pack(">I4s", 8, b"free") for _ in range(2_000_000))
    yield made("two million atoms.m4a", struct.pack(">I8sI", 16, b"ftypM4A ", 0) + atoms)
    genres = b"".join(b"\x03Genre%d\0" % n for n in range(1_000_000))
    frame = b"TCON" + bytes((len(genres) >> shift) & 0x7F for shift in (21, 14, 7, 0)) + b"\0\0" + genres
    size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    mp3 = write_audio(folder / "mp3", "mp3", 2.0).read_bytes()
    yield made("a million genres.mp3", b"ID3\4\0\0" + size + frame + mp3)
    comments = b"".join(struct.pack("<I", 8) + b"GENRE=%02d" % (n % 100) for n in range(1_000_000))
    block = struct.pack("<I", 0) + struct.pack("<I", 1_000_000) + comments
    flac = write_audio(folder / "flac", "flac", 2.0).read_bytes()
    yield made("a million comments.flac", flac[:42] + b"\4" + len(block).to_bytes(3) + block + flac[42:])
    yield made("64 MB of zeros.mp3", bytes(64 * MB))
    yield made("64 MB of noise.mp3", np.random.default_rng(1).bytes(64 * MB))
    for number, source in enumerate([*synthesised_sources(folder), *fixture_sources()][:sources]):
        data = bytearray(source.data)
        rng = np.random.default_rng(number)
        for at in rng.integers(0, max(1, len(data)), 40):
            data[at] = rng.integers(0, 256)
        yield made(f"mutated {number}{Path(source.name).suffix or '.' + source.container}", bytes(data))


SQL = (
    "select hex(zeroblob(1000000000))",
    "with recursive n(i) as (select 1 union all select i+1 from n) select max(i) from n",
    "select instr(zeroblob(16000000), zeroblob(8000000)||x'01')",
    "select group_concat(a.path_text||b.path_text||c.path_text) from files a, files b, files c",
    "select replace(printf('%15000000d', 1), ' ', 'abc')",
    "select 'a' like printf('%.900c', '%')",
    "select json_group_array(json_array(a.id, b.id, c.id, d.id)) from files a, files b, files c, files d",
    "select a.id from files a, files b, files c, files d, files e order by 1 desc limit 5",
    "select " + "(" * 200 + "1" + ")" * 200,
)


def hostile_requests(stem: str) -> Iterator[str]:
    for sql in SQL:
        yield f"/{stem}.json?" + urllib.parse.urlencode({"sql": sql})
    yield f"/{stem}/tracks?_search=" + urllib.parse.quote('"' * 4000)
    yield f"/{stem}/tracks?_search=" + urllib.parse.quote("a* " * 2000)
    yield f"/{stem}/tracks?_size=max&" + "&".join(
        f"_facet=genre&_facet=container&title__contains={n}" for n in range(60)
    )
    yield f"/{stem}/tracks.csv?_stream=on&_size=max"
    yield f"/{stem}/tracks/" + "9" * 8000
    yield "/-/playlist.m3u8?ids=" + ",".join(map(str, range(2500)))
    yield "/-/review.json?after=" + "9" * 5000
    yield "/" + "%2e%2e/" * 2000 + "etc/passwd"
    yield f"/{stem}.json?" + urllib.parse.urlencode({"sql": "select 1 /* */" + " " * 9000})


def resident_bytes(pid: int) -> int:
    """The largest resident size of a process and of all that it started, each at its own peak."""
    total = 0
    with contextlib.suppress(OSError):
        total += int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            total += sum(resident_bytes(int(child)) for child in children.read_text().split())
    return total


class Table:
    """The longest and the largest of some cases, beside an honest one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.cases: list[tuple[float, int, str, str]] = []

    def add(self, name: str, found: tuple[float, int, int, str]) -> None:
        self.cases.append((found[0], found[1], name, f"{found[2]}: {found[3]}"))
        print(f"  {found[0]:7.1f} s {found[1] / MB:7.0f} MB  {name}: {found[2]}: {found[3]}", flush=True)

    def show(self) -> None:
        longest, largest = max(self.cases), max(self.cases, key=lambda case: case[1])
        print(
            f"{self.kind}: {len(self.cases)}; longest {longest[0]:.1f} s ({longest[2]}), largest"
            f" {largest[1] / MB:.0f} MB ({largest[2]})",
            flush=True,
        )


def models(folder: Path, environ: dict[str, str]) -> None:
    music = folder / "music"
    music.mkdir()
    sound = write_audio(music / "a", "flac", 5.0)
    encoder = load_encoder("rhythm")
    rng = np.random.default_rng(0)
    honest = folder / "honest.safetensors"
    head = LinearHead(
        "h", encoder.id, ("a", "b"), 0.5, rng.normal(size=(2, encoder.width)).astype("f4"), np.zeros(2, "f4")
    )
    head.save(honest)
    classify = ("classify", "--encoder", "rhythm", sound, "--head")
    print("an honest head:")
    Table("").add("honest", run(*classify, honest, environ=environ))
    table = Table("hostile heads")
    for path in hostile_heads(folder, honest):
        table.add(path.stem, run(*classify, path, environ=environ))
    table.show()
    print("an honest checkpoint:")
    made = checkpoints.write_pth(folder / "honest.pth", checkpoints.published_state(checkpoints.weights()))
    Table("").add("honest", run("models", "add", made, environ=environ))
    table = Table("hostile checkpoints")
    for path in hostile_checkpoints(folder):
        table.add(path.stem, run("models", "add", path, environ=environ))
        path.unlink()
    table.show()


def files(folder: Path, environ: dict[str, str], sources: int = 24) -> None:
    sound = write_audio(folder / "a", "flac", 5.0)
    print("an honest file:")
    Table("").add("honest", run("doctor", sound, environ=environ))
    table = Table("hostile files, doctor")
    for path in hostile_files(folder, sources):
        table.add(path.name, run("doctor", path, environ=environ))
        path.unlink()
    table.show()


def requests(folder: Path, environ: dict[str, str]) -> None:
    for seed in range(40):
        write_audio(folder / f"{seed:02}.flac", "flac", 1.0, seed=seed)
    run("scan", folder, "--no-tags", "--encoder", "rhythm", environ=environ)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "indexer", "serve", "--port", str(port)],
        env={**os.environ, **environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def ask(path: str) -> tuple[float, int, int, str]:
        began_s = time.monotonic()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=LIMIT_S) as answer:
                status, size = answer.status, len(answer.read())
        except urllib.error.HTTPError as error:
            status, size = error.code, len(error.read())
        return time.monotonic() - began_s, resident_bytes(server.pid), status, f"{size:,} bytes"

    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                ask("/")
                break
            time.sleep(0.1)
        stem = Path(environ["INDEXER_DB"]).stem
        print("an honest request:")
        Table("").add("tracks", ask(f"/{stem}/tracks"))
        table = Table("hostile requests")
        for path in hostile_requests(stem):
            table.add(urllib.parse.unquote_plus(path)[:70], ask(path))
        table.show()
    finally:
        server.kill()
        server.wait()


def main() -> None:
    wanted = sys.argv[1:] or ["models", "files", "requests"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for part in (models, files, requests):
        if part.__name__ in wanted:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                state = {"INDEXER_DB": str(folder / "library.db"), "INDEXER_MODELS": str(folder / "models")}
                part(folder, state)


if __name__ == "__main__":
    main()
