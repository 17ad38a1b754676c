"""The models folder against a real HTTP server that misbehaves, and the names, digests and paths it keeps."""

import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from indexer.encoders import checkpoints as checkpoint
from indexer.errors import ModelError
from indexer.models import catalogue, download, published, records
from tests.helpers import checkpoints, servers
from tests.helpers.servers import Handler, Server, answer, cut, drip, serve, stall

NAME = "m2d_vit_base-80x608p16x16-221006-mr7_enconly"
URL_PATH = f"/v0.1.0/{NAME}.zip"


def zipped(content: bytes = b"weights one", *, member: str = f"{NAME}/checkpoint-300.pth") -> bytes:
    """A stored zip around `content`, padded so that it comes in several blocks."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(member), content)
        archive.writestr(zipfile.ZipInfo(f"{NAME}/padding"), bytes(range(256)) * 4096)
    return buffer.getvalue()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    with servers.running(monkeypatch) as server:
        server.files[URL_PATH] = zipped()
        yield server


@pytest.fixture
def converted(monkeypatch) -> list[Path]:
    """Replace reading checkpoints by something tiny; the list collects what was converted."""
    done: list[Path] = []

    def convert(source: Path, dest_folder: Path, *, name: str | None = None) -> Path:
        done.append(source)
        if source.is_dir():
            data = next(source.rglob("*.pth")).read_bytes()
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                data = archive.read(next(entry for entry in archive.namelist() if entry.endswith(".pth")))
        else:
            data = source.read_bytes()
        if not data.startswith(b"weights"):
            raise ModelError(f"{source} is not a checkpoint")
        dest_folder.mkdir(parents=True, exist_ok=True)
        (dest_folder / "model.safetensors").write_bytes(data)
        return dest_folder / "model.safetensors"

    def inspect(path: Path) -> SimpleNamespace:
        data = path.read_bytes()
        if not data.startswith(b"weights"):
            raise ModelError(f"{path} is not one of ours")
        return SimpleNamespace(encoder_id=hashlib.sha256(data).hexdigest(), words_id=None)

    monkeypatch.setattr(checkpoint, "convert", convert)
    monkeypatch.setattr(checkpoint, "inspect", inspect)
    return done


class Get:
    """`download` with the arguments these tests share; keeps what it slept and what progress said."""

    def __init__(self, server: Server, models_dir: Path) -> None:
        self.server, self.models_dir = server, models_dir
        self.part = models_dir / f"{NAME}.zip.part"
        self.slept: list[float] = []
        self.steps: list[tuple[int, int | None]] = []

    def __call__(self, **more) -> Path:
        settings = {"accept": lambda _notice: True, "base_url": self.server.base_url, "timeout_s": 0.3} | more
        return catalogue.download(
            NAME, self.models_dir, progress=lambda *step: self.steps.append(step), sleep=self.slept.append, **settings
        )

    def fails(self, *, keeps_part: bool = False, **more) -> str:
        """Download, expecting one line of error; return it. Nothing but the part and trust records may be left."""
        with pytest.raises(ModelError) as caught:
            self(**more)
        message = str(caught.value)
        assert "\n" not in message
        assert not (self.models_dir / NAME).exists()
        left = {entry.name for entry in self.models_dir.iterdir()} if self.models_dir.exists() else set()
        allowed = {f"{NAME}.zip.part", f"{NAME}.zip.part.json"} if keeps_part else set()
        assert left - {"digests.json"} == allowed
        assert ("are kept in" in message and str(self.part) in message) is keeps_part
        return message


@pytest.fixture
def get(server, converted, tmp_path) -> Get:
    return Get(server, tmp_path / "models")


# Downloads that succeed


def test_download_installs_a_model_with_its_origin_and_leaves_nothing_else(get, server):
    path = get()
    whole = server.files[URL_PATH]
    assert path == get.models_dir / NAME / "model.safetensors"
    assert path.read_bytes() == b"weights one"
    source = json.loads((path.parent / "source.json").read_text())
    assert source["url"] == server.base_url + URL_PATH
    assert (source["size"], source["sha256"]) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert source["licence_accepted_at"].endswith("+00:00")
    assert source["indexer_version"]
    assert json.loads((get.models_dir / "digests.json").read_text()) == {NAME: source["sha256"]}
    assert sorted(entry.name for entry in get.models_dir.iterdir()) == ["digests.json", NAME]
    assert get.steps == sorted(get.steps)
    assert get.steps[-1] == (len(whole), len(whole))
    (model,) = catalogue.installed(get.models_dir)
    assert (model.name, model.path, model.problem, model.size) == (NAME, path, None, len(b"weights one"))
    assert (model.licence_accepted, model.source) == (source["licence_accepted_at"], source["url"])
    assert get.models_dir.stat().st_mode & 0o777 == 0o700


def test_an_installed_model_is_not_asked_for_again(get, server):
    path = get()
    assert get(accept=lambda _notice: pytest.fail("asked again")) == path
    assert len(server.seen) == 1


def test_refusing_the_licence_asks_nothing_of_the_server_and_writes_nothing(get, server):
    shown = []
    message = get.fails(accept=lambda notice: bool(shown.append(notice)))
    assert "not accepted" in message
    assert not server.seen
    assert not get.models_dir.exists()
    for word in ("NTT", "evaluation", "commercial", "withdraw", "LICENSE.pdf", "pass the checkpoint on"):
        assert word in shown[0]


def test_a_truncated_download_goes_on_where_it_broke_off(get, server):
    whole = server.files[URL_PATH]
    server.script = [cut(300_000), cut(700_000)]
    get()
    assert [request.get("range") for request in server.seen] == [None, "bytes=300000-", "bytes=700000-"]
    assert server.seen[1]["if-range"] == '"' + hashlib.md5(whole).hexdigest() + '"'
    assert server.body_bytes == len(whole)
    assert get.slept == [1, 2]


def test_the_next_call_goes_on_too_and_the_message_says_so(get, server):
    server.script = [cut(100_000 * step) for step in range(1, download.TRIES + 1)]
    message = get.fails(keeps_part=True)
    assert "broke off at 0.5 MB" in message
    get()
    assert server.seen[-1]["range"] == "bytes=500000-"
    assert server.body_bytes == len(server.files[URL_PATH])


def test_after_a_kill_only_the_rest_is_transferred(server, tmp_path, converted):
    code = f"""
import os, signal
from pathlib import Path
from indexer.models import catalogue
def progress(done, total):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
catalogue.download({NAME!r}, Path({str(tmp_path)!r}), accept=lambda _: True, progress=progress,
                   base_url={server.base_url!r})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    part = tmp_path / f"{NAME}.zip.part"
    whole, have = server.files[URL_PATH], part.stat().st_size
    assert part.read_bytes() == whole[:have]
    assert have > len(whole) // 2
    server.body_bytes = 0
    Get(server, tmp_path)()
    assert server.body_bytes == len(whole) - have


def test_a_server_without_ranges_starts_over(get, server):
    server.script = [cut(300_000), lambda handler: serve(handler, ranges=False)]
    assert get().read_bytes() == b"weights one"
    assert server.seen[1]["range"] == "bytes=300000-"
    assert server.body_bytes == 300_000 + len(server.files[URL_PATH])


def test_without_validators_a_part_is_still_used(get, server):
    server.etags = False
    server.script = [cut(300_000)]
    get()
    assert "if-range" not in server.seen[1]
    assert server.body_bytes == len(server.files[URL_PATH])


def test_a_weak_etag_gives_way_to_last_modified(get, server):
    weak = {"ETag": 'W/"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    server.script = [cut(300_000, **weak), lambda handler: serve(handler, if_range=False, **weak)]
    get()
    assert server.seen[1]["if-range"] == weak["Last-Modified"]


@pytest.mark.parametrize("honest", [True, False], ids=["answers 200", "goes on with the new file"])
@pytest.mark.parametrize("content", [b"weights two", b"weights number three"], ids=["same size", "other size"])
def test_a_file_that_changes_between_tries_is_never_mixed(get, server, honest, content):
    def change(handler: Handler) -> None:
        handler.server.files[URL_PATH] = zipped(content)
        serve(handler, if_range=honest)

    server.script = [cut(300_000), change]
    assert get().read_bytes() == content
    digest = hashlib.sha256(zipped(content)).hexdigest()
    assert json.loads((get.models_dir / "digests.json").read_text()) == {NAME: digest}


def test_a_complete_part_is_not_transferred_again(get, server, monkeypatch):
    convert = checkpoint.convert

    def full_disk(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "convert", full_disk)
    assert "disk full" in get.fails(keeps_part=True)
    monkeypatch.setattr(checkpoint, "convert", convert)
    before = server.body_bytes
    get()
    assert server.body_bytes == before
    assert sorted(entry.name for entry in get.models_dir.iterdir()) == ["digests.json", NAME]


def test_killed_while_converting_goes_on_from_the_whole_part(get, server, monkeypatch):
    convert = checkpoint.convert

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "convert", killed)
    with pytest.raises(KeyboardInterrupt):
        get()
    monkeypatch.setattr(checkpoint, "convert", convert)
    before = server.body_bytes
    get()
    assert server.body_bytes == before


def test_416_for_a_part_that_is_not_whole_starts_over(get, server):
    server.script = [cut(300_000), answer(416)]
    get()
    assert [request.get("range") for request in server.seen] == [None, "bytes=300000-", None]
    assert get.slept == [1, 0]


def test_a_part_of_another_address_is_not_used(get, server):
    server.script = [cut(100_000)] * download.TRIES
    get.fails(keeps_part=True)
    record = download.part_record(get.part)
    record.write_text(record.read_text().replace("v0.1.0", "v0.0.9"))
    get()
    assert "range" not in server.seen[-1]


@pytest.mark.parametrize("code", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again(get, server, code):
    server.script = [answer(code), answer(code)]
    get()
    assert get.slept == [1, 2]


def test_retry_after_is_heeded_within_bounds(get, server):
    server.script = [answer(503, {"Retry-After": wait}) for wait in ("7", "999999", "soon")]
    get()
    assert get.slept == [7, download.LONGEST_WAIT_S, 4]


def test_redirects_are_followed(get, server):
    server.files["/elsewhere"] = server.files[URL_PATH]
    server.script = [answer(302, {"Location": "/again"}), answer(307, {"Location": server.base_url + "/elsewhere"})]
    get()
    assert len(server.seen) == 3


# Downloads that fail


def test_404_names_the_model_and_the_address(get, server):
    del server.files[URL_PATH]
    message = get.fails()
    assert f"{NAME} is not at {server.base_url}{URL_PATH}: see `indexer models list`" in message
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("play", "says"),
    [
        (answer(503), "answers 503"),
        (stall(0), "sent nothing for 0.3 s"),
        (lambda handler: None, "broke the connection off"),
        (lambda handler: handler.server.closing.wait(20), "sent nothing for 0.3 s"),
    ],
    ids=["503", "stalls", "says nothing", "never answers"],
)
def test_tries_are_bounded(get, server, play, says):
    server.script = [play] * 20
    assert says in get.fails()
    assert len(server.seen) == download.TRIES
    assert get.slept == [1, 2, 4, 8]


def test_a_stall_in_the_middle_keeps_the_part(get, server):
    server.script = [stall(200_000)] + [answer(503)] * 20
    get.fails(keeps_part=True)
    assert get.part.stat().st_size == 200_000


def test_a_dripping_server_counts_as_stalled(get, server):
    server.script = [drip] + [answer(503)] * 20
    get.fails(keeps_part=True)
    assert get.part.stat().st_size < 1000


@pytest.mark.parametrize("code", [400, 401, 403, 451])
def test_other_refusals_are_final(get, server, code):
    server.script = [answer(code)]
    assert f"answers {code}" in get.fails()
    assert len(server.seen) == 1


def test_a_refused_connection_says_what_to_do(get):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        message = get.fails(base_url=f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert message.startswith("cannot reach http://127.0.0.1")
    assert "indexer models add FILE" in message
    assert not get.slept


def test_an_unknown_host_says_what_to_do(get, monkeypatch):
    def no_dns(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_dns)
    message = get.fails(base_url="https://github.invalid")
    assert "cannot reach" in message
    assert "offline?" in message
    assert not get.slept


@pytest.mark.parametrize("base_url", ["file:///etc", "ftp://127.0.0.1", "/etc", "data:,x", "http://[bad", "http://a b"])
def test_only_proper_http_addresses_are_opened(get, base_url):
    assert "address" in get.fails(base_url=base_url)


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", URL_PATH, "http://[bad/", "gopher:x", ""]
)
def test_redirects_elsewhere_or_in_circles_are_refused_and_every_connection_closed(get, server, monkeypatch, location):
    responses = []

    class Kept(download._Response):
        def begin(self) -> None:
            responses.append(self)
            super().begin()

    monkeypatch.setattr(download, "_Response", Kept)
    server.script = [answer(302, {"Location": location})] * 20
    assert "redirects" in get.fails()
    assert len(server.seen) <= 11
    assert len(responses) == len(server.seen)
    assert all(response.isclosed() for response in responses)


def test_https_is_never_left_for_http():
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(ModelError, match="redirects to a http address"):
        download._Redirects().redirect_request(request, io.BytesIO(), 302, "Found", {}, "http://example.org/a")


def test_the_body_of_a_redirect_is_not_read(get, server):
    """urllib reads it to its end, which would never come."""

    def endless(handler: Handler) -> None:
        handler.reply(302, {"Location": "/elsewhere"})
        with contextlib.suppress(OSError):
            while not handler.server.closing.is_set():
                handler.push(bytes(1 << 16))

    server.files["/elsewhere"] = server.files[URL_PATH]
    server.script = [endless]
    began_s = time.monotonic()
    get()
    assert time.monotonic() - began_s < 20
    assert server.body_bytes < 64 << 20


def test_the_head_of_an_answer_comes_in_time(get, server):
    """A byte now and then meets the timeout of each read, and so do interim answers for ever."""

    def trickle(handler: Handler) -> None:
        handler.send_response(200)
        handler.flush_headers()
        with contextlib.suppress(OSError):
            while not handler.server.closing.wait(0.05):
                handler.wfile.write(b"X")

    def interim(handler: Handler) -> None:
        with contextlib.suppress(OSError):
            while not handler.server.closing.wait(0.01):
                handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    server.script = [trickle, interim, trickle, interim, trickle]
    assert "took longer than 0.6 s to answer" in get.fails()
    assert len(server.seen) == download.TRIES


@pytest.mark.parametrize("headers", [{f"X-{n}": "x" for n in range(200)}, {"X": "x" * 100_000}])
def test_a_head_without_end_is_refused(get, server, headers):
    server.script = [lambda handler: serve(handler, **headers)] * 20
    assert "broke the connection off" in get.fails()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "GZIP", "x"])
def test_a_compressed_body_is_never_unpacked(get, server, encoding):
    bomb = gzip.compress(bytes(50_000_000))
    server.script = [answer(200, {"Content-Encoding": encoding}, bomb)]
    assert "does not say how large" in get.fails()
    assert not get.steps


def test_the_rest_of_a_part_is_never_unpacked_either(get, server):
    bomb = gzip.compress(bytes(50_000_000))
    whole = len(server.files[URL_PATH])
    rest = {"Content-Range": f"bytes 300000-{whole - 1}/{whole}", "Content-Encoding": "gzip"}
    server.script = [cut(300_000), answer(206, rest, bomb[: whole - 300_000])]
    assert get().read_bytes() == b"weights one"
    assert "range" not in server.seen[-1]  # from the beginning


@pytest.mark.parametrize("chunk", [b"10000\r\n" + bytes(1 << 16) + b"\r\n", b"0"], ids=["endless", "a digit at a time"])
def test_chunks_are_refused(get, server, chunk):
    """What stands before a chunk has no end that must come in time."""

    def endless(handler: Handler) -> None:
        handler.reply(200, {"Content-Length": 100_000, "Transfer-Encoding": "chunked"})
        with contextlib.suppress(OSError):
            while not handler.server.closing.wait(0.02):
                handler.push(chunk)

    server.script = [endless]
    assert "does not say how large" in get.fails()
    assert not get.steps


def test_a_length_that_is_too_large_ends_as_broken_off(get, server):
    whole = server.files[URL_PATH]
    server.script = [lambda handler: serve(handler, **{"Content-Length": len(whole) + 1000})]
    server.script += [lambda handler: serve(handler, ranges=False, **{"Content-Length": len(whole) + 1000})] * 20
    assert "broke off" in get.fails(keeps_part=True)


@pytest.mark.parametrize("length", [1000, 1, 100_000])
def test_a_length_that_is_too_small_is_read_no_further_and_refused(get, server, length):
    server.script = [lambda handler: serve(handler, **{"Content-Length": length})]
    get.fails()
    assert get.steps[-1] == (length, length)
    assert not (get.models_dir / "digests.json").exists()


@pytest.mark.parametrize("length", ["0", "-5", "x", "1e9", "4294967297", "9" * 19, "9" * 400, "٣"])
def test_impossible_lengths_are_refused_at_once(get, server, length):
    raw = length.encode("utf-8").decode("latin-1")
    server.script = [lambda handler: serve(handler, **{"Content-Length": raw})]
    get.fails()
    assert not get.steps


def test_a_length_left_out_is_refused(get, server):
    server.script = [lambda handler: handler.reply(200, {}, b"x" * 1000)]
    assert "does not say how large" in get.fails()


@pytest.mark.parametrize("content_range", ["bytes 0-9/10", "bytes 300001-9/10", "", "bytes x", "bytes 300000-300009/*"])
def test_a_wrong_content_range_starts_over(get, server, content_range):
    wrong = {"Content-Range": content_range, "Content-Length": 10}
    server.script = [cut(300_000), lambda handler: handler.reply(206, wrong, b"y" * 10)]
    assert get().read_bytes() == b"weights one"


def test_a_sign_in_page_is_not_taken_for_a_checkpoint(get, server):
    server.script = [answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>log in</html>")]
    assert "web page" in get.fails()


def test_html_under_another_type_is_refused_and_not_trusted(get, server):
    server.script = [answer(200, {}, b"<html>log in</html>")]
    get.fails()
    get()  # the next, right file is not held against the wrong one


def test_too_little_space_is_found_before_anything_comes(get, server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=len(server.files[URL_PATH]) * 2))
    message = get.fails()
    assert "free some space" in message
    assert not get.steps


def test_a_disk_that_fills_up_keeps_the_part(get, server, monkeypatch):
    class Full(io.RawIOBase):
        def __init__(self, path: Path) -> None:
            self.file = path.open("ab", buffering=0)

        def write(self, block) -> int:
            if self.file.tell() > 500_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(block[: len(block) // 2 + 1])  # the system may write less than asked

        def close(self) -> None:
            self.file.close()

    with monkeypatch.context() as patch:
        patch.setattr(download, "_open_part", Full)
        assert "disk full" in get.fails(keeps_part=True)
    have = get.part.stat().st_size
    get()
    assert server.seen[-1]["range"] == f"bytes={have}-"


def test_a_models_folder_that_cannot_be_made_is_one_line(get, tmp_path):
    get.models_dir.write_text("a file")
    with pytest.raises(ModelError, match="cannot write"):
        get()


def test_another_digest_is_refused_until_the_user_accepts_it(get, server):
    get()
    shutil.rmtree(get.models_dir / NAME)
    server.files[URL_PATH] = zipped(b"weights swapped")
    message = get.fails()
    assert "is not the file that was downloaded before" in message
    digests = get.models_dir / "digests.json"
    assert str(digests) in message
    digests.write_text("{}")
    assert get().read_bytes() == b"weights swapped"


def test_damaged_trust_records_are_not_taken_for_none(get, server):
    get.models_dir.mkdir()
    (get.models_dir / "digests.json").write_text("{")
    assert "damaged" in get.fails()
    assert not server.seen


def test_two_downloads_of_one_model_do_not_meet(get):
    get.models_dir.mkdir()
    with records.locked(get.models_dir, NAME), pytest.raises(ModelError, match="another indexer is working on"):
        get()
    get()


def test_a_name_nobody_publishes_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ModelError, match=f"nearest: .*{NAME}"):
        catalogue.download(NAME.replace("221006", "221007"), tmp_path, accept=lambda _notice: True)
    for bad in ("../x", "", "/etc/passwd"):
        with pytest.raises(ModelError, match="no checkpoint"):
            catalogue.download(bad, tmp_path, accept=lambda _notice: True)


def test_a_broken_model_is_replaced_by_a_download(get):
    (get.models_dir / NAME).mkdir(parents=True)
    (get.models_dir / NAME / "model.safetensors").write_bytes(b"garbage")
    (get.models_dir / NAME / "mine.txt").write_text("a file of the user's")
    assert get().read_bytes() == b"weights one"
    assert (get.models_dir / NAME / "mine.txt").exists()


# Local checkpoints


@pytest.mark.parametrize(
    ("relative", "name"),
    [
        ("my-model/checkpoint-300.pth", "my-model"),
        ("my-model/weights_ep69it3124-0.48494.pth", "my-model"),
        ("my-model.pth", "my-model"),
        ("a b/ü!.pth", "model"),
        ("strange name (1).pth", "strange_name_1_"),
        (".hidden.pth", "hidden"),
    ],
)
def test_add_names_a_model_after_its_file_or_folder(tmp_path, converted, relative, name):
    source = tmp_path / "in" / relative
    source.parent.mkdir(parents=True)
    source.write_bytes(b"weights")
    path = catalogue.add(source, tmp_path / "models")
    assert path == tmp_path / "models" / name / "model.safetensors"
    assert json.loads((path.parent / "source.json").read_text())["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert source.exists()


def test_add_takes_a_folder_and_a_zip(tmp_path, converted):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "checkpoint-300.pth").write_bytes(b"weights a")
    (tmp_path / "two.zip").write_bytes(zipped(b"weights b"))
    assert catalogue.add(folder, tmp_path / "models").parent.name == "one"
    assert catalogue.add(tmp_path / "two.zip", tmp_path / "models").parent.name == "two"
    assert catalogue.add(folder, tmp_path / "models", name="three").parent.name == "three"
    assert [model.name for model in catalogue.installed(tmp_path / "models")] == ["one", "three", "two"]


def test_add_never_overwrites_other_weights(tmp_path, converted):
    source = tmp_path / "m.pth"
    source.write_bytes(b"weights a")
    path = catalogue.add(source, tmp_path / "models")
    assert catalogue.add(source, tmp_path / "models") == path
    source.write_bytes(b"weights b")
    with pytest.raises(ModelError, match="other weights is installed"):
        catalogue.add(source, tmp_path / "models")
    assert path.read_bytes() == b"weights a"
    assert [entry.name for entry in (tmp_path / "models").iterdir()] == ["m"]


def test_add_of_a_folder_inside_the_models_folder_keeps_the_original(tmp_path, converted):
    source = tmp_path / "models" / "m" / "checkpoint-300.pth"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"weights a")
    assert catalogue.add(source.parent, tmp_path / "models") == source.with_name("model.safetensors")
    assert source.exists()


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "", "-rf", "a\nb", "x" * 200])
def test_add_refuses_unsafe_names(tmp_path, converted, name):
    source = tmp_path / "m.pth"
    source.write_bytes(b"weights")
    with pytest.raises(ModelError, match="cannot name a model"):
        catalogue.add(source, tmp_path / "models", name=name)


def test_add_refuses_what_is_no_checkpoint(tmp_path, converted):
    (tmp_path / "song.mp3").write_bytes(b"ID3")
    (tmp_path / "bad.pth").write_bytes(b"junk")
    (tmp_path / "empty").mkdir()
    for source in ("song.mp3", "bad.pth", "empty", "absent.pth", "x" * 300):
        with pytest.raises(ModelError):
            catalogue.add(tmp_path / source, tmp_path / "models")
    assert catalogue.installed(tmp_path / "models") == []
    assert not list((tmp_path / "models").glob("*")) + list((tmp_path / "models").glob(".*"))


def test_installed_lists_broken_folders_with_their_reason(tmp_path, converted):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"garbage")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".good.new").mkdir()
    good = tmp_path / "good"
    good.mkdir()
    (good / "model.safetensors").write_bytes(b"weights")
    (good / "source.json").write_text("[")
    bad, empty, fine = catalogue.installed(tmp_path)
    assert (bad.encoder_id, "not one of ours" in (bad.problem or "")) == (None, True)
    assert (empty.encoder_id, empty.problem) == (None, "no model.safetensors in it")
    assert (fine.problem, fine.source, fine.licence_accepted) == (None, None, None)
    assert catalogue.installed(tmp_path / "absent") == []


# Names and paths


@pytest.fixture
def models(tmp_path, converted) -> Path:
    for name in ("alpha-one", "alpha-two", "beta"):
        source = tmp_path / f"{name}.pth"
        source.write_bytes(b"weights " + name.encode())
        catalogue.add(source, tmp_path / "models")
    converted.clear()
    return tmp_path / "models"


def test_resolve_takes_a_name_or_its_unique_beginning(models):
    assert catalogue.resolve("beta", models) == models / "beta" / "model.safetensors"
    assert catalogue.resolve("alpha-t", models) == models / "alpha-two" / "model.safetensors"
    with pytest.raises(ModelError, match="may be alpha-one, alpha-two"):
        catalogue.resolve("alpha", models)
    (models / "alpha" / "x").mkdir(parents=True)
    with pytest.raises(ModelError, match="alpha cannot be used"):
        catalogue.resolve("alpha", models)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("alpa-one", "nearest: alpha-one"),
        ("m2d_AS", "nearest: m2d_as_vit_base-"),
        ("zzz", "nearest: alpha-one, alpha-two, beta"),
        (NAME, f"run `indexer models download {NAME}`"),
        ("", "models list"),
        ("x" * 300, "models list"),
        ("nul\0", "models list"),
        ("~nosuchuser/x.pth", "no such user"),
        ("absent.pth", "does not exist"),
        ("/absent/folder", "does not exist"),
    ],
)
def test_resolve_says_what_to_do_about_an_unknown_model(models, spec, says):
    with pytest.raises(ModelError, match=says):
        catalogue.resolve(spec, models)


def test_a_path_is_converted_once_while_it_stays_the_same(models, tmp_path, converted):
    source = tmp_path / "mine" / "checkpoint-300.pth"
    source.parent.mkdir()
    source.write_bytes(b"weights mine")
    path = catalogue.resolve(str(source), models)
    assert path.parent.parent == models
    assert path.parent.name == "mine-" + hashlib.sha256(b"weights mine").hexdigest()[:8]
    assert catalogue.resolve(str(source), models) == path
    os.utime(source, ns=(1, 1))
    assert catalogue.resolve(str(source), models) == path  # the digest, this time
    assert json.loads((path.parent / "source.json").read_text())["files"][0][2] == 1
    assert len(converted) == 1
    source.write_bytes(b"weights MINE")
    other = catalogue.resolve(str(source), models)
    assert other != path
    assert path.exists()
    assert catalogue.resolve(str(source.parent), models) == other  # a folder, holding the same
    assert len(converted) == 2


def test_an_unchanged_path_is_not_even_read(models, tmp_path, monkeypatch):
    source = tmp_path / "mine.zip"
    source.write_bytes(zipped(b"weights zip"))
    path = catalogue.resolve(str(source), models)
    monkeypatch.setattr(catalogue, "sha256_of", lambda _files: pytest.fail("read again"))
    assert catalogue.resolve(str(source), models) == path


def test_a_path_to_a_converted_model_is_used_as_it_is(models, converted):
    path = models / "beta" / "model.safetensors"
    assert catalogue.resolve(str(path), models) == path
    assert catalogue.resolve(str(path.parent), models) == path
    assert not converted


def test_the_catalogue_knows_the_published_checkpoints():
    assert [(model.name, model.tag) for model in published.KNOWN] == [
        ("m2d_vit_base-80x608p16x16-221006-mr7_enconly", "v0.1.0"),
        ("m2d_as_vit_base-80x608p16x16-240213", "v0.1.0"),
        ("m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025", "v0.5.0"),
        ("m2d_clap_vit_base-80x608p16x16-240128", "v0.1.0"),
        ("m2d_as_vit_base-80x1001p16x16-240213_AS-FT_enconly", "v0.3.0"),
        ("m2d_vit_base-80x1001p16x16-221006-mr7_as_46ab246d", "v0.3.0"),
        ("m2d_as_vit_base-80x608p16x16p32k-240413_enconly", "v0.1.0"),
        ("larger_clap_music", "laion/larger_clap_music"),
        ("larger_clap_general", "laion/larger_clap_general"),
        ("clap-htsat-unfused", "laion/clap-htsat-unfused"),
    ]
    assert published.NTT.base_url == "https://github.com/nttcslab/m2d/releases/download"
    assert published.KNOWN[-1].url("https://huggingface.co/") == (
        "https://huggingface.co/laion/clap-htsat-unfused/resolve/main"
    )


def test_listing_models_imports_no_torch(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"garbage")
    code = (
        "import sys; from pathlib import Path; from indexer.models import catalogue\n"
        f"assert catalogue.installed(Path({str(tmp_path)!r}))[0].problem\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Through the real conversion


class Attack:
    """Makes a file where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def real_zip(folder: Path) -> bytes:
    state = checkpoints.published_state(checkpoints.weights(width=64, depth=1))
    return checkpoints.write_zip(folder, state).read_bytes()


@pytest.fixture
def real(server, tmp_path) -> Get:
    return Get(server, tmp_path / "models")


def test_a_published_zip_becomes_a_model_that_can_be_inspected(real, server, tmp_path):
    whole = server.files[URL_PATH] = real_zip(tmp_path)
    server.script = [cut(len(whole) // 3)]
    path = real()
    info = checkpoint.inspect(path)
    assert (info.name, info.source_sha256) == (NAME, hashlib.sha256(whole).hexdigest())
    (model,) = catalogue.installed(real.models_dir)
    assert (model.encoder_id, model.problem) == (info.encoder_id, None)
    assert catalogue.resolve("m2d_vit", real.models_dir) == path
    assert catalogue.add(tmp_path / f"{NAME}.zip", real.models_dir) == path  # the same encoder
    source = tmp_path / "unpacked" / NAME / "checkpoint-300.pth"
    by_path = catalogue.resolve(str(source), real.models_dir)
    assert checkpoint.inspect(by_path).encoder_id == info.encoder_id
    assert catalogue.resolve(str(source), real.models_dir) == by_path
    copied = catalogue.add(by_path, real.models_dir, name="copy")
    assert checkpoint.inspect(copied).encoder_id == info.encoder_id


@pytest.mark.parametrize("member", ["../../escaped.pth", "/tmp/escaped.pth", "a/../../escaped.pth", "..\\escaped.pth"])
def test_a_zip_that_points_outside_is_refused(real, server, tmp_path, member):
    real_zip(tmp_path)
    pth = (tmp_path / "unpacked" / NAME / "checkpoint-300.pth").read_bytes()
    before = set(tmp_path.rglob("*"))
    server.files[URL_PATH] = zipped(pth, member=member)
    assert "outside" in real.fails()
    assert {path for path in set(tmp_path.rglob("*")) - before if path != real.models_dir} == set()
    assert not Path("/tmp/escaped.pth").exists()


def test_a_pickle_that_runs_code_is_refused_and_runs_none(real, server, tmp_path):
    target = tmp_path / "attacked"
    server.files[URL_PATH] = zipped(pickle.dumps({"model": Attack(target)}, protocol=2))
    assert "posix.mkdir" in real.fails()
    assert not target.exists()
    assert not (real.models_dir / "digests.json").exists()


@pytest.mark.parametrize(
    ("damage", "says"),
    [("junk", "not loaded as a checkpoint"), ("nan", "NaN"), ("flipped", "damaged"), ("cut", "no whole zip")],
)
def test_damaged_weights_are_refused_and_leave_nothing(real, server, tmp_path, damage, says):
    state = checkpoints.published_state(checkpoints.weights(width=64, depth=1))
    if damage == "nan":
        state["norm.bias"][0] = float("nan")
    whole = bytearray(checkpoints.write_zip(tmp_path, state).read_bytes())
    if damage == "flipped":
        whole[len(whole) // 2] ^= 255
    server.files[URL_PATH] = {"junk": zipped(b"junk" * 999), "cut": bytes(whole[:-100])}.get(damage, bytes(whole))
    assert says in real.fails()
    server.files[URL_PATH] = real_zip(tmp_path / "good")
    real()


def test_no_space_to_convert_keeps_the_download(real, server, tmp_path, monkeypatch):
    server.files[URL_PATH] = real_zip(tmp_path)

    def full_disk(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full_disk)
        real.fails(keeps_part=True)
    before = server.body_bytes
    real()
    assert server.body_bytes == before
