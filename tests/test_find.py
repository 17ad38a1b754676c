"""`indexer find`: the tracks nearest to a text, compared with the reference for clips of one unit; what goes wrong."""

import asyncio
import importlib.util
import json
import shutil
import signal
import socket
import threading
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pytest

from indexer.config import Settings
from indexer.encoders import text
from indexer.encoders.m2d.checkpoint import inspect
from indexer.errors import ModelError
from indexer.library.store import Store
from indexer.models import texts, word_list
from indexer.web import find, neighbours
from tests.helpers import checkpoints, reference_m2d, words
from tests.helpers.cli import Cli
from tests.helpers.pages import Pages
from tests.helpers.synth import music

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'edm-indexer[words]'",
)
SAID = "melancholic dub techno with deep chords"
RATE = 16_000


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A checkpoint with a text encoder, and three clips of one unit, two of them in a folder."""
    import soundfile

    folder = tmp_path_factory.mktemp("find")
    state = checkpoints.published_state(words.clap_2025())
    model = checkpoints.write_folder(folder, state, name=checkpoints.NAME_CLAP_TI)
    (folder / "music" / "album").mkdir(parents=True)
    clips = {}
    for n, place in enumerate(("0.flac", "album/1.flac", "album/2.flac")):
        samples = music(3.0 + n, sample_rate_hz=RATE, channels=1, seed=n)[:, 0]
        path = folder / "music" / place
        soundfile.write(path, samples, RATE, subtype="PCM_24")
        clips[str(path)] = soundfile.read(path, dtype="float32")[0]
    return model, folder / "music", clips


@pytest.fixture(scope="module")
def state(tmp_path_factory, template):
    folder = tmp_path_factory.mktemp("scanned")
    cli = Cli(folder / "state", None)
    cli.folder.mkdir()
    cli("models", "add", template[0], "--name", "clap")
    cli("models", "add", words.write_vocabulary(folder))
    assert cli.json("scan", template[1], "--no-tags")["embedded"] == 3
    return cli.folder


@pytest.fixture
def library(tmp_path, state):
    return Cli(shutil.copytree(state, tmp_path / "state"), None)


@pytest.fixture
def quick(library, monkeypatch):
    """The library with a text encoder that needs no `transformers` and knows one direction."""

    class Tower:
        def __init__(self, *_files):
            pass

        def encode(self, said):
            return np.stack([np.eye(64, dtype=np.float32)[len(text.cleaned(one)) % 64] for one in said])

    monkeypatch.setattr("indexer.models.words.BertTower", Tower)
    return library


def expected(state, bert, clips, *, unit_frames, pooling):
    """By file the similarity to SAID, in float64 from the published facts alone; each word of it is a token."""
    weights = {key: value for key, value in state.items() if key.startswith(("cls", "pos", "patch", "blocks", "norm"))}
    of = {part: {key: value for key, value in state.items() if key.startswith(part)} for part in ("audio", "text_proj")}
    ids = [words.TOKENS.index(token) for token in ("[CLS]", *SAID.split(), "[SEP]")]
    text_vector = reference_m2d.text_vector(ids, bert, of["text_proj"], pooling)
    return {
        path: reference_m2d.audio_vector(samples, weights, of["audio"], unit_frames=unit_frames) @ text_vector
        for path, samples in clips.items()
    }


def similarities(found):
    assert [track["similarity"] for track in found] == sorted((t["similarity"] for t in found), reverse=True)
    return {track["path"]: track["similarity"] for track in found}


@needs_transformers
def test_similarities_are_those_of_the_reference(library, template):
    """At the precision that is chosen where none is asked for."""
    bert = checkpoints.bert(len(words.TOKENS))
    reference = expected(words.clap_2025(), bert, template[2], unit_frames=1001, pooling="first")
    found = similarities(library.json("find", SAID))
    assert found == pytest.approx(reference, abs=1e-4)
    assert np.std(list(reference.values())) > 1e-3  # a mistake would show
    checkpoint = library.folder / "models" / "clap" / "model.safetensors"
    tower = text.BertTower(checkpoint, None, texts.place(texts.VOCABULARY, library.folder / "models"))
    kept, sentence = word_list.kept(inspect(checkpoint)), word_list.all_sentences()[5]
    assert kept[sentence] == pytest.approx(tower.encode([sentence])[0], abs=1e-5)


@needs_transformers
def test_similarities_of_the_earlier_layout_are_those_of_the_reference(tmp_path, template, monkeypatch):
    """From the published files: the checkpoint in its zip, GTE base's own folder, the vocabulary; without a network."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("used the network"))
    import safetensors.numpy

    bert, state = checkpoints.bert(len(words.TOKENS), seed=7), words.clap_2024()
    cli = Cli(tmp_path / "state", None)
    cli.folder.mkdir()
    cli(
        "models", "add", checkpoints.write_zip(tmp_path, checkpoints.published_state(state), name=checkpoints.NAME_CLAP)
    )
    (tmp_path / "gte-base").mkdir()
    safetensors.numpy.save_file(bert, tmp_path / "gte-base" / "model.safetensors")
    words.write_vocabulary(tmp_path / "gte-base")
    cli("models", "add", tmp_path / "gte-base")
    clips = {path: samples for path, samples in template[2].items() if "album" in path}
    assert cli.json("scan", template[1] / "album", "--no-tags")["embedded"] == 2
    reference = expected(state, bert, clips, unit_frames=608, pooling="mean")
    assert similarities(cli.json("find", SAID)) == pytest.approx(reference, abs=1e-4)
    assert np.std(list(reference.values())) > 1e-3


def test_count_filters_and_playlist(quick, template, tmp_path):
    assert len(quick.json("find", SAID, "-n", "2")) == 2
    below = quick.json("find", SAID, "--path", template[1] / "album")
    assert {track["path"].rsplit("/", 1)[1] for track in below} == {"1.flac", "2.flac"}
    quick("correct", template[1] / "0.flac", "House")
    assert [track["label"] for track in quick.json("find", SAID, "--genre", "house")] == ["house"]
    assert "no track of genre polka" in quick("find", SAID, "--genre", "polka", code=2).stderr
    quick("find", SAID, "--m3u", tmp_path / "list.m3u8")
    assert (tmp_path / "list.m3u8").read_text().count("#EXTINF") == 3
    assert quick("find", SAID).stdout.count(".flac") == 3


def test_a_listed_word_needs_no_text_encoder_once_the_list_is_kept(quick, monkeypatch):
    first = quick.json("find", "The sound of dub techno music.")
    monkeypatch.setattr("indexer.models.words.BertTower", lambda *_files: pytest.fail("loaded"))
    assert quick.json("find", "The sound of dub techno music.") == first


@pytest.mark.parametrize("said", ["", " \t", "\x1b\x07"])
def test_no_words(quick, said):
    result = quick("find", said, code=2)
    assert "no words: say what to look for" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("said", ["word " * 10_000, "음악 музыка 音楽", "dub\x00\x1b[31m techno\u202e", "🎧"])
def test_any_text_is_answered(quick, said):
    result = quick("find", said, "--json")
    assert len(json.loads(result.stdout)) == 3
    assert "\x1b" not in result.stderr


def test_without_a_model_that_knows_words_the_way_is_told(scanned):
    result = scanned("find", SAID, code=2)
    assert "knows no words: `indexer models download m2d_clap" in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_the_vocabulary_or_the_library_the_way_is_told(library, tmp_path):
    texts.place(texts.VOCABULARY, library.folder / "models").unlink()
    assert "indexer models download bert-base-uncased" in library("find", SAID, "-q", code=2).stderr
    library.db.rename(tmp_path / "away.db")
    assert library("find", SAID, code=2).stderr.count("\n") == 1


def test_the_page_finds_listed_words_without_a_text_encoder(quick, template):
    quick("models", "use", "clap")
    quick.json("find", SAID)  # keeps the vectors of the listed words
    pages = Pages(quick.db, models=quick.folder / "models")
    sentence = "The sound of dub techno music."
    shown = pages.get("/-/find", params={"text": sentence})
    assert shown.status_code == 200
    assert shown.text.count('<td class="ix-number">') == 3
    assert "psytrance</bdi>" in shown.text
    found = pages.json("/-/find.json?" + urlencode({"text": sentence, "path": template[1] / "album"}))
    below = quick.json("find", sentence, "--path", template[1] / "album")
    assert [track["similarity"] for track in found["tracks"]] == [track["similarity"] for track in below]


def test_the_page_of_a_library_that_is_still_prepared_says_so(quick, monkeypatch):
    quick("models", "use", "clap")
    quick.json("find", SAID)  # keeps the vectors of the listed words
    listed = "/-/find.json?" + urlencode({"text": word_list.all_sentences()[0]})
    shutil.rmtree(quick.folder / "vectors")
    go_on, opened = threading.Event(), neighbours.open_directions
    monkeypatch.setattr(neighbours, "maker", neighbours.Maker())
    monkeypatch.setattr(neighbours, "open_directions", lambda *asked: go_on.wait(20) and opened(*asked))
    monkeypatch.setattr("indexer.web.find.PATIENCE_S", 0.0)
    pages = Pages(quick.db, models=quick.folder / "models")
    assert "ask again in a minute" in pages.get(listed).json()["error"]
    go_on.set()
    neighbours.maker.wait()
    assert len(pages.json(listed)["tracks"]) == 3


def test_a_model_that_has_embedded_nothing_says_so(quick):
    quick("models", "use", "clap")
    with Store(quick.db) as store:
        store._run("DELETE FROM embeddings")
        store._run("UPDATE encoders SET changes = 0")
    assert "nothing is embedded by clap together with its words" in quick("find", SAID, code=2).stderr
    answer = Pages(quick.db, models=quick.folder / "models").get("/-/find.json?text=dub")
    assert (answer.status_code, answer.json()["tracks"]) == (409, None)
    assert "run `indexer scan`" in answer.json()["error"]


def test_the_page_without_such_a_model_tells_the_way(pages):
    assert "knows no words" in pages.get("/-/find?text=dub").text
    assert pages.get("/-/find.json?text=dub").status_code == 409


def test_the_page_of_a_text_that_says_nothing(quick):
    quick("models", "use", "clap")
    pages = Pages(quick.db, models=quick.folder / "models")
    assert pages.json("/-/find.json")["tracks"] is None
    assert "no words" in pages.get("/-/find.json?text=%00%1b").json()["error"]
    assert "fewer words" in pages.get("/-/find.json?text=" + "a" * 2_001).json()["error"]


def test_the_process_of_texts_tells_what_is_missing(library):
    """In a process of its own; without the vocabulary, or without `transformers`, it answers in one line."""
    library("models", "use", "clap")
    texts.place(texts.VOCABULARY, library.folder / "models").unlink()
    answer = Pages(library.db, models=library.folder / "models").get("/-/find.json?text=dub")
    assert (answer.status_code, answer.json()["tracks"]) == (409, None)
    assert "indexer models download bert-base-uncased" in answer.json()["error"]


@needs_transformers
def test_the_process_of_texts_gives_the_vector(library):
    library("models", "use", "clap")
    found = Pages(library.db, models=library.folder / "models").json("/-/find.json?" + urlencode({"text": SAID}))
    assert [track["similarity"] for track in found["tracks"]] == pytest.approx(
        [track["similarity"] for track in library.json("find", SAID)], abs=1e-5
    )


def test_a_text_encoder_that_hangs_is_killed_and_not_asked_again(monkeypatch):
    started = []

    async def start(_module, _settings, *, longest_answer):
        assert longest_answer
        pipe = asyncio.subprocess.PIPE
        started.append(await asyncio.create_subprocess_exec("sleep", "60", stdin=pipe, stdout=pipe))
        return started[-1]

    async def asked():
        with pytest.raises(ModelError, match="try again"):
            await find.TextVectors(Settings())._ask(SimpleNamespace(words_id="w"), "x")
        return [process.returncode for process in started]

    monkeypatch.setattr(find.child, "start", start)
    monkeypatch.setattr(find, "SILENCE_LIMIT_S", 0.05)
    assert asyncio.run(asked()) == [-signal.SIGKILL]
