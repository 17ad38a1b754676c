"""What texts need beside a checkpoint, fetched from a real HTTP server that misbehaves, and read offline afterwards."""

import hashlib
import json
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.errors import ModelError
from indexer.models import download, texts, word_list
from tests.helpers import checkpoints, servers, words
from tests.helpers.cli import Cli
from tests.helpers.servers import Server, answer, cut

VOCABULARY_PATH = "/google-bert/bert-base-uncased/resolve/main/vocab.txt"
ENCODER_PATH = "/thenlper/gte-base/resolve/main/model.safetensors"
VOCABULARY = "\n".join(words.TOKENS).encode() + b"\n"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> bytes:
    """A small BERT as Hugging Face publishes them."""
    import safetensors.numpy

    path = tmp_path_factory.mktemp("encoder") / "model.safetensors"
    safetensors.numpy.save_file(checkpoints.bert(len(words.TOKENS)), path)
    return path.read_bytes()


@pytest.fixture
def server(monkeypatch, encoder) -> Iterator[Server]:
    """It has both files; the known digest is that of the small vocabulary."""
    known = replace(texts.VOCABULARY, sha256=hashlib.sha256(VOCABULARY).hexdigest())
    for name, value in (("VOCABULARY", known), ("TEXT_FILES", (known, texts.ENCODER))):
        monkeypatch.setattr(texts, name, value)
    with servers.running(monkeypatch) as server:
        server.files |= {VOCABULARY_PATH: VOCABULARY, ENCODER_PATH: encoder}
        yield server


class Get:
    """`download` of one file with the arguments these tests share."""

    def __init__(self, server: Server, models: Path, which: str) -> None:
        self.server, self.models, self.which = server, models, which

    @property
    def one(self) -> texts.TextFile:
        return getattr(texts, self.which)

    def __call__(self, **more) -> Path:
        settings = {"accept": lambda _notice: True, "base_url": self.server.base_url, "timeout_s": 0.3} | more
        return texts.download(self.one, self.models, sleep=lambda _s: None, **settings)

    def fails(self, *, kept: bool = False, **more) -> str:
        """Download, expecting one line; nothing of the file may be installed or, but for ``kept``, lie about."""
        with pytest.raises(ModelError) as caught:
            self(**more)
        assert "\n" not in str(caught.value)
        left = {path.name for path in self.models.iterdir()} if self.models.exists() else set()
        part = f"{self.one.name}.zip.part"
        assert left - {"digests.json"} == ({part, f"{part}.json"} if kept else set())
        return str(caught.value)


@pytest.fixture(params=["VOCABULARY", "ENCODER"])
def get(request, server, tmp_path) -> Get:
    return Get(server, tmp_path / "models", request.param)


def test_a_file_is_installed_with_its_origin_and_never_asked_for_again(get, server):
    path = get()
    assert path == texts.place(get.one, get.models)
    source = json.loads((path.parent / "source.json").read_text())
    sent = server.files[VOCABULARY_PATH if get.which == "VOCABULARY" else ENCODER_PATH]
    assert (source["size"], source["sha256"]) == (len(sent), hashlib.sha256(sent).hexdigest())
    assert source["url"].startswith(server.base_url)
    assert source["licence"] == get.one.licence
    assert {entry.name for entry in get.models.iterdir()} == {get.one.name, "digests.json"}
    assert get(accept=lambda _notice: pytest.fail("asked again")) == path
    assert len(server.seen) == 1


def test_another_vocabulary_that_was_added_is_replaced(server, tmp_path):
    other = words.write_vocabulary(tmp_path, [*words.TOKENS, "more"])
    path = texts.add(other, texts.VOCABULARY, tmp_path / "models")
    kept = tmp_path / "models" / "clap" / word_list.FILE
    kept.parent.mkdir()
    kept.touch()
    texts.add(other, texts.VOCABULARY, tmp_path / "models")
    assert kept.exists()  # the same one again
    assert Get(server, tmp_path / "models", "VOCABULARY")() == path
    assert path.read_bytes() == VOCABULARY
    assert not kept.exists()  # it was of texts that the other one had cut


def test_the_licence_is_shown_first_and_refusing_it_asks_nothing_of_the_server(get, server):
    shown: list[str] = []
    assert "was not accepted" in get.fails(accept=lambda notice: bool(shown.append(notice)))
    assert get.one.licence in shown[0]
    assert get.one.repository in shown[0]
    assert not server.seen
    assert not get.models.exists()


def test_a_download_that_breaks_off_goes_on_where_it_did(get, server):
    server.script = [cut(40), cut(90)]
    get()
    assert [request.get("range") for request in server.seen] == [None, "bytes=40-", "bytes=90-"]


def test_the_next_call_goes_on_too(get, server):
    server.script = [cut(10 * step) for step in range(1, download.TRIES + 1)]
    assert "need not come again" in get.fails(kept=True)
    get()
    assert server.seen[-1]["range"] == "bytes=50-"


def test_another_digest_is_refused(get, server):
    get()
    shutil.rmtree(get.models / get.one.name)
    for path, content in server.files.items():
        server.files[path] = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
    message = get.fails()
    assert ("is not the known bert-base-uncased" if get.which == "VOCABULARY" else "downloaded before") in message


@pytest.mark.parametrize(
    ("play", "said"),
    [
        (answer(404), "is not at http://127.0.0.1"),
        (answer(401), "answers 401: download it elsewhere"),
        (answer(200, {"Content-Type": "text/html"}, b"<html>sign in</html>"), "is a web page"),
        (answer(200, {}, b"<html>sign in</html>"), "is not the known|damaged, or no safetensors file"),
        (answer(200, {"Content-Type": "application/json"}, b'{"error": "gated"}'), "is not the known|damaged, or no"),
        (answer(200), "no checkpoint has that size"),
    ],
    ids=["404", "401", "a sign-in page", "a page under another type", "JSON", "nothing"],
)
def test_what_is_not_the_file_is_one_line_and_leaves_nothing(get, server, play, said):
    server.script = [play]
    assert re.search(said, get.fails())
    get()  # the right file is not held against the wrong one


def test_an_encoder_of_another_kind_is_refused(server, tmp_path):
    import safetensors.numpy

    server.files[ENCODER_PATH] = safetensors.numpy.save({"vision.weight": checkpoints.bert(9).popitem()[1]})
    assert "not the weights of a BERT" in Get(server, tmp_path / "models", "ENCODER").fails()


def test_the_command_line_asks_first_and_needs_no_network_afterwards(server, tmp_path, monkeypatch):
    cli = Cli(tmp_path / "state", None)
    cli.folder.mkdir()
    for name, licence in (("bert-base-uncased", "Apache-2.0"), ("gte-base", "MIT")):
        refused = cli("models", "download", name, "--base-url", server.base_url, code=2)
        assert f"licence {licence}" in refused.stderr
        assert not server.seen
    for name in ("bert-base-uncased", "gte-base"):
        done = cli("models", "download", name, "--base-url", server.base_url, "--accept-licence")
        assert f"installed {name}" in done.stdout
    assert len(server.seen) == 2
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("used the network"))
    for name in ("bert-base-uncased", "gte-base"):
        cli("models", "download", name, "--accept-licence")
    listed = cli.json("models", "list")
    assert {one["name"] for one in listed["texts"] if one["installed"]} == {"bert-base-uncased", "gte-base"}
