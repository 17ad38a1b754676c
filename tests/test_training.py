"""Training learns, is calibrated, repeats and resumes to the bit, and a failure leaves the library as it was."""

import dataclasses
import json
import os

import numpy as np
import pytest
import torch

from indexer.errors import ModelError
from indexer.files.audio.identity import Stat
from indexer.heads import paper, pooled, recipes
from indexer.heads.linear import LinearHead
from indexer.heads.load import load_head
from indexer.heads.training import Data, TrainingSettings
from indexer.learn.train import RECIPES
from indexer.library.facts import files
from indexer.library.readonly import open_readonly
from indexer.library.store import Store
from tests.helpers.heads import rewrite
from tests.helpers.labelled import ENCODER, WIDTH, fill, sql, vectors
from tests.helpers.synth import write_audio

torch.set_num_threads(1)


@pytest.fixture
def library(labelled_library):
    return labelled_library


def data(n=240, labels=("a", "b", "c"), seed=0, **changes):
    y = np.random.default_rng(seed).integers(len(labels), size=n)
    numbers = {
        "encoder_id": ENCODER,
        "labels": labels,
        "keys": tuple(f"{i:064x}" for i in range(n)),
        "vectors": vectors(y, seed),
        "y": y,
        "groups": np.arange(n) // 3,
    }
    return Data(**numbers | changes)


def train(d, settings=None, *, recipe="best", **options):
    settings = dataclasses.replace(settings or TrainingSettings(), recipe=recipe)
    return recipes.train(d, settings, **{"name": "x"} | options)


def bits(head):
    return head.id, head.weight.tobytes(), head.bias.tobytes()


both = pytest.mark.parametrize("recipe", RECIPES)


@both
def test_it_learns_what_there_is_to_learn(recipe):
    trained = train(data(600), recipe=recipe)
    test = data(3000, seed=1)
    scores = trained.head.scores(test.vectors)
    correct = scores.argmax(axis=1) == test.y
    means = np.stack([test.vectors[test.y == k].astype(np.float64).mean(axis=0) for k in range(3)]) / np.logspace(
        -2, 1, WIDTH
    )
    distances = ((test.vectors[:, None] / np.logspace(-2, 1, WIDTH) - means) ** 2).sum(axis=2)
    best_possible = (distances.argmin(axis=1) == test.y).mean()  # nearest true mean, of equal round clouds
    assert correct.mean() > best_possible - 0.03
    assert abs(scores.max(axis=1).mean() - correct.mean()) < 0.06  # calibrated
    decided = scores.max(axis=1) >= trained.head.threshold
    assert correct[decided].mean() > 0.85
    metrics = trained.head.training["metrics"]
    assert metrics["accuracy_95"][0] - 0.05 < correct.mean() < metrics["accuracy_95"][1] + 0.05


def test_the_folded_head_scores_as_the_standardised_one():
    d = data()
    parts = paper.split(d, TrainingSettings())
    mean, scale = paper._standardisation(d.vectors[parts.train], 0)
    run = paper._Run(d, parts, TrainingSettings(epochs=5), mean, scale, torch.device("cpu"))
    run.work(None, lambda _: None)
    head = paper._finish(run, d, parts, TrainingSettings(epochs=5), "x", {}, (mean, scale)).head
    z = (d.vectors.astype(np.float64) - mean) * scale
    logits = (z @ run.best["weight"].double().numpy().T + run.best["bias"].double().numpy()) / head.training[
        "settings"
    ]["temperature"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.scores(d.vectors), expected, atol=2e-5)


def test_standardisation_by_hand():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((500, 6)) * [1, 1, 1, 1, 100, 0]
    z[:, 1] = z[:, 0]
    mean, scale = paper._standardisation((z + 3).astype(np.float16), 0)
    standard = (z + 3 - mean) * scale
    assert scale[5] == 0  # it never varies
    np.testing.assert_allclose(standard[:, :5].std(axis=0), standard[:, 0].std(), rtol=1e-3)
    assert np.linalg.eigvalsh(np.cov(standard.T))[-1] == pytest.approx(paper.LARGEST_VARIANCE, rel=0.01)


@both
def test_the_same_seed_gives_the_same_bits_and_another_does_not(recipe):
    first, again, other = (train(data(), TrainingSettings(seed=seed), recipe=recipe).head for seed in (3, 3, 4))
    assert bits(first) == bits(again) != bits(other)


@both
@pytest.mark.parametrize("number", [1, 3])
def test_an_interrupted_training_resumes_to_the_same_bits(tmp_path, number, recipe):
    options, steps, seen = TrainingSettings(epochs=15), [], []
    whole = train(data(), options, recipe=recipe, on_step=lambda step: steps.append(step.number)).head
    checkpoint = tmp_path / "state"

    def interrupt(step):
        if step.number == number:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data(), options, recipe=recipe, checkpoint=checkpoint, on_step=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    again = train(
        data(),
        options,
        recipe=recipe,
        checkpoint=checkpoint,
        resume=True,
        on_step=lambda step: seen.append(step.number),
    )
    assert seen == steps[steps.index(number) + 1 :]
    assert bits(again.head) == bits(whole)
    assert again.head.training == whole.training
    assert list(tmp_path.iterdir()) == []


@both
def test_checkpoints_are_written_while_it_runs(tmp_path, monkeypatch, recipe):
    """A killed process cannot write any more; what it left must do."""
    monkeypatch.setattr(paper, "CHECKPOINT_S", 0.0)
    copies = []
    whole = train(
        data(),
        TrainingSettings(epochs=6),
        recipe=recipe,
        checkpoint=tmp_path / "state",
        on_step=lambda report: copies.append((tmp_path / "state").read_bytes()),
    )
    (tmp_path / "state").write_bytes(copies[2])
    again = train(data(), TrainingSettings(epochs=6), recipe=recipe, checkpoint=tmp_path / "state", resume=True)
    assert bits(again.head) == bits(whole.head)


@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        ("best", {"seed": 1}),
        ("best", {"target_precision": 0.8}),
        ("paper", {"seed": 1}),
        ("paper", {"epochs": 16}),
        ("paper", {"target_precision": 0.8}),
    ],
)
def test_a_state_of_another_training_is_refused(tmp_path, recipe, change):
    options, state = TrainingSettings(epochs=15), tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train(data(), options, recipe=recipe, checkpoint=state, on_step=_interrupt)
    other = next(one for one in RECIPES if one != recipe)
    for d, settings, by in (
        (data(), dataclasses.replace(options, **change), recipe),
        (data(seed=9), options, recipe),
        (data(), options, other),
    ):
        with pytest.raises(ModelError, match="not those of the interrupted training"):
            train(d, settings, recipe=by, checkpoint=state, resume=True)
    whole = state.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x80\x04cos\nsystem\n(S'touch /tmp/x'\ntR."):
        state.write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged: train without --resume"):
            train(data(), options, recipe=recipe, checkpoint=state, resume=True)


def _interrupt(_step):
    raise KeyboardInterrupt


def test_training_stops_when_validation_stops_improving():
    rng = np.random.default_rng(0)
    noise = data(120, vectors=rng.standard_normal((120, WIDTH)).astype(np.float16))
    metrics = train(noise, TrainingSettings(epochs=500, patience=5), recipe="paper").head.training["metrics"]
    assert metrics["epochs"] == metrics["best_epoch"] + 5 < 500


def test_rare_labels_count_as_much_as_common_ones_by_the_papers_recipe():
    y = np.repeat([0, 1], [900, 60])
    d = data(960, ("a", "b"), y=y, vectors=vectors(y, spread=3), groups=np.arange(960))
    head = train(d, recipe="paper").head
    test = np.repeat([0, 1], 1000)
    right = head.scores(vectors(test, 1, spread=3)).argmax(axis=1) == test
    assert right[1000:].mean() > 0.6  # without class weights nearly everything is "a"
    assert abs(right[:1000].mean() - right[1000:].mean()) < 0.2


def test_artists_are_never_split_and_both_parts_hold_every_label():
    for seed in range(10):
        d = data(90, groups=np.random.default_rng(seed).integers(15, size=90))
        parts = paper.split(d, TrainingSettings(seed=seed))
        assert not set(d.groups[parts.train]) & set(d.groups[parts.validation])
        assert set(d.y[parts.train]) == set(d.y[parts.validation]) == {0, 1, 2}
        assert sorted([*parts.train, *parts.validation]) == list(range(90))
        assert parts.not_separated == ()
        assert 0.15 < len(parts.validation) / 90 < 0.35


def test_a_label_of_one_artist_is_split_all_the_same_and_named():
    d = data(60)
    groups = np.where(d.y == 1, 99, d.groups)
    parts = paper.split(dataclasses.replace(d, groups=groups), TrainingSettings())
    assert parts.not_separated == ("b",)
    assert set(d.y[parts.train]) == set(d.y[parts.validation]) == {0, 1, 2}
    one = paper.split(dataclasses.replace(d, groups=np.zeros(60, np.int64)), TrainingSettings())
    assert one.not_separated == ("a", "b", "c")


def test_a_device_that_is_not_there():
    with pytest.raises(ModelError, match="cannot train on 'mps'"):
        train(data(), device="mps")


def test_the_file_holds_what_it_learned_from_and_shows_an_edit(tmp_path):
    head = train(data(), about={"sources": ["tags"]}).head
    path = tmp_path / "x.safetensors"
    head.save(path)
    again = load_head(path)
    assert isinstance(again, LinearHead)
    assert again.training == json.loads(json.dumps(head.training))
    assert set(again.training) == {"sources", "settings", "data_sha256", "metrics", "recordings"}
    assert again.training["data_sha256"] == data().digest()
    assert dataclasses.replace(head, training={}).id == head.id
    rewrite(path, about={"training": again.training | {"metrics": {"accuracy": 1.0}}})
    with pytest.raises(ModelError, match="changed after it was written"):
        load_head(path)
    rewrite(path, about={"training": 5})
    with pytest.raises(ModelError, match="description is damaged"):
        load_head(path)


# ---- the command on a library


def in_use(db):
    return sql(db, "SELECT name, id, source FROM heads WHERE in_use = 1")


def test_train_puts_a_head_in_use_that_the_file_describes(library):
    found = library.json("train")
    assert found["labels"] == {"house": 30, "techno": 30, "trance": 30}
    assert (found["recordings"], found["artists"], found["sources"]) == (
        90,
        18,
        {"corrections": 0, "tags": 90, "folders": 0},
    )
    assert found["validation"]["accuracy"] > 0.6
    assert in_use(library.db) == [("trained", found["id"], found["file"])]
    head = load_head(found["file"])
    assert (head.id, head.encoder_id, head.labels, head.threshold) == (
        found["id"],
        ENCODER,
        ("house", "techno", "trance"),
        found["threshold"],
    )
    assert head.training["metrics"] == found["validation"]
    (row,) = sql(library.db, "SELECT trained_on, metrics FROM heads WHERE in_use = 1")
    assert row[0] == "house 30, techno 30, trance 30"
    assert json.loads(row[1]) == found["validation"]
    assert sorted(os.listdir(library.folder / "heads")) == ["trained.safetensors"]
    again = library.json("train")
    assert (again["id"], again["file"]) == (found["id"], found["file"])  # the very same head: no second file
    other = library.json("train", "--seed", 5)
    assert other["head"] == "trained-2"
    assert load_head(found["file"]).id == found["id"]  # the former one is still there
    text = library("train", "--name", "mine").stdout
    assert "learned 'mine' from 90 recordings of 18 artists" in text
    assert "expect somewhat less" in text


def test_what_was_not_understood_is_said(library):
    sql(library.db, "UPDATE tags SET genre = 'Deep House' WHERE file_id <= 6")
    sql(library.db, "UPDATE tags SET genre = 'Ambient' WHERE file_id IN (7, 8)")
    sql(library.db, "UPDATE embeddings SET vector = ? WHERE recording_id = 10", np.full(WIDTH, np.nan, "<f2").tobytes())
    sql(library.db, "UPDATE embeddings SET vector = x'00' WHERE recording_id = 11")
    sql(library.db, "DELETE FROM embeddings WHERE recording_id = 12")
    found = library.json("train")
    assert found["unmapped"]["tags"] == {"Deep House": 6}
    assert found["too_few"] == {"ambient": 2}
    assert (found["damaged"], found["not_embedded"], found["recordings"]) == (2, 1, 79)
    notes = "\n".join(found["notes"])
    assert "'ambient' was not learned: 2 recordings, 3 more needed" in notes
    assert "2 embeddings are damaged" in notes
    (library.folder / "config.toml").write_text('[aliases]\n"Deep House" = "house"\n')
    assert (
        library.json("train", "--config", library.folder / "config.toml")["labels"]["house"] > found["labels"]["house"]
    )


def test_corrections_win_and_a_csv_stands_alone(library, tmp_path):
    sql(
        library.db,
        "INSERT INTO corrections (recording_id, genre, corrected_at) SELECT id, 'Trance', '2026' FROM recordings"
        " WHERE id % 3 = 1 AND id < 30",
    )
    found = library.json("train")
    assert found["labels"] == {"house": 20, "techno": 30, "trance": 40}
    assert found["contradictions"] == {"corrections against tags": 10}
    assert library.json("train", "--labels", "tags")["labels"]["trance"] == 30
    (tmp_path / "my.csv").write_text(
        "path,genre\n"
        + "".join(f"music/{i}.mp3,{'up' if i % 3 else 'down'}\n" for i in range(60))
        + "music/none.mp3,up\n"
    )
    found = library.json("train", "--csv", tmp_path / "my.csv", "--name", "csv")
    assert found["labels"] == {"down": 10, "trance": 10, "up": 40}
    assert found["csv_rows_unknown"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("DELETE FROM tags", "no recording has a label: a head needs two genres with 5"),
        ("UPDATE tags SET genre = 'House'", "only 'house' has enough labels (90): a head needs a second genre"),
        (
            "UPDATE tags SET genre = 'Jungle' WHERE file_id > 9",
            (
                "too few labels: two genres need 5 labelled recordings each; there are: house 3 (2 more),"
                ' techno 3 (2 more), trance 3 (2 more); not understood, [aliases] can map them: "Jungle"'
            ),
        ),
        ("UPDATE embeddings SET vector = zeroblob(0)", "embeddings are damaged (scan with --force)"),
        ("DELETE FROM embeddings", "none is embedded by made: run `indexer scan` first"),
        ("DELETE FROM embeddings WHERE recording_id % 3 <> 1", "only 'house' has enough labels (30)"),
        ("UPDATE encoders SET width = 7", "embeddings are damaged"),
    ],
)
def test_labels_that_are_not_enough_change_nothing(library, change, message):
    library("train", "--name", "first")
    before = in_use(library.db)
    sql(library.db, change)
    result = library("train", code=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert in_use(library.db) == before
    assert sorted(os.listdir(library.folder / "heads")) == ["first.safetensors"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--labels", "tags,moods"], "'moods' is not one of"),
        (["--labels", ""], "'' is not one of"),
        (["--target-precision", "1"], "--target-precision"),
        (["--target-precision", "nan"], "--target-precision"),
        (["--epochs", "0"], "--epochs"),
        (["--seed", "-1"], "--seed"),
        (["--name", "../x"], "--name"),
        (["--name", "first"], "already"),
        (["--csv", "none.csv"], "No such file"),
        (["--encoder", "nowhere"], "nowhere"),
        (["--device", "mps"], "cannot train on"),
        (["--encoder", "rhythm"], "no embeddings by rhythm"),
    ],
)
def test_requests_that_cannot_be_change_nothing(library, args, message):
    library("train", "--name", "first")
    before = in_use(library.db)
    result = library("train", *args, code=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert in_use(library.db) == before


def test_one_artist_is_split_by_recording_and_said(bare_cli, tmp_path):
    fill(bare_cli.db, tmp_path, artists=1)
    notes = "\n".join(bare_cli.json("train")["notes"])
    assert "recordings of 'house', 'techno', 'trance' come from too few artists" in notes
    assert "the figures flatter" in notes


def test_an_interrupted_command_keeps_the_former_head_and_resumes(library, monkeypatch):
    library("train", "--name", "first")
    before = in_use(library.db)
    whole = library.json("train", "--seed", 7)
    sql(library.db, "UPDATE heads SET in_use = 0")
    sql(library.db, "UPDATE heads SET in_use = 1 WHERE name = 'first'")
    os.remove(whole["file"])
    fit = pooled.Problems.fit
    fits = []

    def interrupted(self, *args):
        fits.append(1)
        if len(fits) == 3:
            raise KeyboardInterrupt
        return fit(self, *args)

    monkeypatch.setattr(pooled.Problems, "fit", interrupted)
    result = library("train", "--seed", 7, code=130)
    assert "--resume goes on from here" in result.stderr
    assert in_use(library.db) == before
    monkeypatch.undo()
    for name, value in library.environ.items():
        monkeypatch.setenv(name, value)
    assert "without --resume" in library("train", "--seed", 8, "--resume", code=2).stderr
    again = library.json("train", "--seed", 7, "--resume")
    assert again["id"] == whole["id"]
    assert sorted(os.listdir(library.folder / "heads")) == ["first.safetensors", "trained.safetensors"]


def test_a_genre_that_we_wrote_is_no_label_but_the_users_before_it_is(library):
    ours = json.dumps({"genre": "Techno", "label": "techno", "confidence": 0.9, "model": "x"})
    for file_id, genre in ((1, "Techno"), (2, "House"), (3, "Techno"), (4, "Techno")):
        sql(library.db, "UPDATE tags SET genre = ?, indexer_genre = ? WHERE file_id = ?", genre, ours, file_id)
    with Store(library.db) as store:
        stat = Stat(1, 1, 1, 1)
        for file_id, before, after in ((3, ["Trance"], ["House"]), (3, ["House"], ["Techno"]), (4, [], ["Techno"])):
            write = store.intend_write(
                file_id=file_id,
                run_id=None,
                path=b"x",
                action="write",
                before=before,
                after=after,
                stat_before=stat,
                stat_after=stat,
                evidence={},
            )
            store.settle_write(write, "done")
    genres = {f.recording_id: f.genre for f in files(open_readonly(library.db))}
    assert [genres[i] for i in (1, 2, 3, 4, 5)] == [None, "House", "Trance", None, "Techno"]


def test_a_missing_file_counts_only_while_no_other_holds_its_recording(library):
    with Store(library.db) as store:
        twin = store.put_file(b"/elsewhere", Stat(1, 999, 1, 1), root_id=None, state="ready", recording_id=2)
        store.put_tags(twin, {"genre": "Ambient"})
    sql(library.db, "UPDATE files SET state = 'missing' WHERE id IN (1, 2)")
    genres = {f.recording_id: f.genre for f in files(open_readonly(library.db))}
    assert (genres[1], genres[2]) == ("House", "Ambient")


def test_relabel_and_scan_use_what_was_learned(cli, tmp_path):
    for n in range(12):
        folder = tmp_path / "music" / ("House" if n % 2 else "Techno")
        folder.mkdir(parents=True, exist_ok=True)
        write_audio(folder / f"{n}.flac", "flac", 1.0, seed=n)
    cli("scan", tmp_path / "music", "--no-tags")
    found = cli.json("train")
    assert found["sources"]["folders"] == 12
    assert cli.json("relabel")["head"] == "trained"
    scanned = cli.json("scan", tmp_path / "music")
    assert (scanned["embedded"], scanned["tags_written"]) == (0, 12)
    assert {row[0] for row in sql(cli.db, "SELECT genre FROM tags")} == {"House", "Techno"}
    assert "no recording has a label" in cli("train", "--labels", "tags", code=2).stderr  # the tags are all ours
