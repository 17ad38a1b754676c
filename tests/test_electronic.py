"""Whether a recording is electronic at all: what tells it, and that no head gives a genre where it is not."""

import numpy as np
import pytest
import soundfile
import torch

from indexer.encoders import synthesis
from indexer.encoders.load import load_encoder
from indexer.encoders.m2d.checkpoint import convert
from indexer.encoders.musicnn import tags
from indexer.encoders.musicnn.encoder import encoder_id
from indexer.files.audio.decode import decode
from indexer.heads.audioset import AudioSetHead
from indexer.heads.decide import NOT_ELECTRONIC, decide
from indexer.heads.electronic import LIMIT, acoustic_labels, ears
from indexer.heads.linear import LinearHead
from indexer.heads.load import load_head
from indexer.library.store import Store
from tests.helpers import checkpoints
from tests.helpers.cli import LABELS
from tests.helpers.contents import genre_of, rows
from tests.helpers.pages import Pages
from tests.helpers.synth import music, write_audio

MUSICNN = ears(None, ())[0]


def heard(path, samples):
    """How electronic samples at 44.1 kHz sound, by way of a file."""
    soundfile.write(path, samples, 44_100)
    encoder = load_encoder("musicnn")
    cutter = encoder.cutter()
    units = [unit for block in decode(path) for unit in cutter.push(block)] + cutter.finish()
    return MUSICNN.hear(encoder.encode(units).mean(axis=0)[None])[0].electronic


@pytest.mark.parametrize("genre", synthesis.GENRES)
def test_what_is_synthesised_sounds_electronic(tmp_path, genre):
    assert heard(tmp_path / "x.wav", synthesis.make_track(genre, 1, 12.0)) > LIMIT


@pytest.mark.parametrize("samples", [music(4.0), np.zeros(4 * 44_100)], ids=["plucked strings", "silence"])
def test_what_is_plucked_or_silent_does_not(tmp_path, samples):
    assert heard(tmp_path / "x.wav", samples) < LIMIT


def test_musicnns_evidence_is_the_mean_log_odds_of_six_tags():
    vector = np.abs(np.random.default_rng(0).standard_normal((1, 400))).astype(np.float32)
    odds = []
    for network, chosen in (("MSD", "electronic electronica electro"), ("MTT", "electronic techno synth")):
        for tag in chosen.split():
            p = float(tags.probabilities(vector)[network][0, tags.NAMES[network].index(tag)])
            odds.append(np.log(p / (1 - p)))
    expected = 1 / (1 + np.exp(-2.6 * (sum(odds) / 6 + 2.15)))
    assert MUSICNN.hear(vector)[0].electronic == pytest.approx(expected, rel=1e-3)


def class_logits(**logits):
    """AudioSet's 527 classes: these logits, all others -5."""
    places = {"electronic_music": 116, "ambient": 440, "speech": 405, "classical": 448, "music": 191}
    bias = np.full(527, -5.0, np.float32)
    for name, logit in logits.items():
        bias[places[name]] = logit
    return bias


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ({"electronic_music": 0.0, "classical": 0.0}, 0.5),
        ({"ambient": -1.0, "classical": 2.0}, 0.2339),  # 0.2689 beside 0.8808
        ({"speech": 5.0}, 0.0067),
        ({"electronic_music": 3.0, "music": 5.0}, 0.993),
    ],
)
def test_audiosets_other_classes_are_evidence_too(tmp_path, logits, expected):
    state = checkpoints.published_state(checkpoints.weights(width=64, depth=1), head_width=320)
    state["module.head.mlp.mlp.0.weight"] *= 0
    state["module.head.mlp.mlp.0.bias"][:] = torch.from_numpy(class_logits(**logits))
    head = load_head(convert(checkpoints.write_pth(tmp_path / "x.pth", state), tmp_path / "model"))
    assert isinstance(head, AudioSetHead)
    best, second = ears(head, ("m2d",))
    assert (best.id, second.encoder_ids) == (MUSICNN.id, {"m2d"})
    (heard,) = second.hear(np.zeros((1, 320), np.float32))
    assert heard.electronic == pytest.approx(expected, abs=2e-4)
    assert heard.tags == {}


def sure_head(**how):
    """A head of musicnn's vectors that is sure of techno whatever it hears."""
    bias = np.where(np.array(LABELS) == "techno", 9, 0).astype(np.float32)
    return LinearHead("sure", encoder_id(), LABELS, 0.5, np.zeros((5, 400), np.float32), bias, **how)


@pytest.mark.parametrize(
    ("electronic", "acoustic", "expected"),
    [(LIMIT, (), None), (LIMIT - 1e-6, (), NOT_ELECTRONIC), (0.0, ("techno",), None), (0.0, ("house",), NOT_ELECTRONIC),
     (None, (), None)],
)  # fmt: skip
def test_what_does_not_sound_electronic_is_never_decided(electronic, acoustic, expected):
    found = decide(sure_head(acoustic=acoustic), 0.0, [np.zeros(400, np.float32)], [None], electronic)
    assert (found.decided, found.reason) == (expected is None, expected)
    assert found.genre == "techno"


def test_labels_whose_own_tracks_do_not_sound_electronic_are_not_held_to_it():
    y = np.repeat([0, 1, 2, 3], 10)
    electronic = np.full(40, 0.9)
    electronic[[0, 10, 11, 20, 21, 22]] = 0.01
    electronic[20:30][electronic[20:30] > 0.5] = np.nan
    electronic[30:] = np.nan
    assert acoustic_labels(("a", "b", "c", "d"), y, electronic) == ("a", "b", "c")
    electronic[0] = 0.9
    assert acoustic_labels(("a", "b", "c", "d"), y, electronic) == ("b", "c")


def test_a_head_keeps_its_acoustic_labels_and_the_id_of_one_without_any(tmp_path):
    plain, free = sure_head(), sure_head(acoustic=("ambient", "house"))
    for head in (plain, free):
        head.save(tmp_path / "head.safetensors")
        again = load_head(tmp_path / "head.safetensors")
        assert (again.id, again.acoustic) == (head.id, head.acoustic)
    assert plain.id != free.id


# ---- in a library


@pytest.fixture
def plucked(cli, tmp_path):
    """The command line, on musicnn and the sure head, and a folder with plucked strings: no electronic music."""
    sure_head().save(tmp_path / "sure.safetensors")
    cli.model, cli.head = None, tmp_path / "sure.safetensors"
    (tmp_path / "music").mkdir()
    return cli, write_audio(tmp_path / "music" / "strings", "flac", 4.0)


def track(cli):
    (row,) = rows(cli, "SELECT * FROM tracks")
    return row


def test_a_scan_writes_no_genre_where_it_is_not_electronic_and_says_why(plucked):
    cli, path = plucked
    found = cli.json("scan", path.parent)
    assert (found["classified"], found["undecided"], found["tags_written"]) == (1, 1, 0)
    assert genre_of(path) is None
    row = track(cli)
    assert (row["genre"], row["decided"], row["label"], row["reason"]) == ("techno", 0, None, NOT_ELECTRONIC)
    assert 0 < row["electronic"] < LIMIT
    (result,) = cli.json("classify", path)
    assert (result["decided"], result["reason"]) == (False, NOT_ELECTRONIC)
    assert result["electronic"] == pytest.approx(row["electronic"], abs=0.01)
    assert NOT_ELECTRONIC in cli("classify", path).stdout
    page = Pages(cli.db).get(f"/library/tracks/{row['id']}").text
    assert NOT_ELECTRONIC in page
    assert f"{100 * row['electronic']:.0f}&nbsp;%" in page
    assert Pages(cli.db).json(f"/library/tracks/{row['id']}.json")["electronic"] == row["electronic"]


def test_what_a_person_said_still_counts(plucked):
    cli, path = plucked
    cli("scan", path.parent)
    cli("correct", path, "house")
    assert (track(cli)["label"], track(cli)["label_source"], genre_of(path)) == ("house", "said", "House")


def test_what_was_decided_before_there_was_the_check_is_decided_anew(plucked):
    """From the cached vector: nothing is embedded again. Other heads' decisions go too, and come back when used."""
    cli, path = plucked
    cli("scan", path.parent, "--no-tags")
    with Store(cli.db) as store:
        store._run("UPDATE predictions SET decided = 1, reason = NULL")
        store._run("UPDATE heard SET ear = 'an older one', electronic = NULL")
    found = cli.json("scan", path.parent)
    assert (found["embedded"], found["undecided"], found["tags_written"]) == (0, 1, 0)
    assert (track(cli)["decided"], track(cli)["reason"]) == (0, NOT_ELECTRONIC)
    with Store(cli.db) as store:
        store._run("UPDATE heard SET ear = 'an older one'")
    assert cli.json("relabel")["not_electronic"] == 1


def test_without_evidence_nothing_changes(scanned):
    """A library of `rhythm` alone: its vectors tell nothing about it."""
    found = rows(scanned, "SELECT electronic, decided FROM tracks")
    assert {row["electronic"] for row in found} == {None}
    assert {row["decided"] for row in found} == {1}


def test_training_learns_which_labels_are_not_held_to_it(labelled_library):
    genres = rows(labelled_library, "SELECT f.recording_id AS id, t.genre FROM files f JOIN tags t ON t.file_id = f.id")
    with Store(labelled_library.db) as store, store.transaction():
        for row in genres:
            store.put_heard(row["id"], "an ear", [], {}, 0.01 if row["genre"] == "House" else 0.9)
    assert load_head(labelled_library.json("train")["file"]).acoustic == ("house",)
