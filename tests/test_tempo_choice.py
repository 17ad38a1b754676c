"""Which of a recording's tempi is shown, by its genre; and how a tag's tempo stands to it."""

import pytest

from indexer.analysis.tempo import Tempo
from indexer.analysis.tempo_choice import RANGES_BPM, agreement, choose_tempo, range_bpm

# As the meter hears fast drums: the half is as likely as the whole.
FAST = Tempo(((87.0, 1.0), (174.0, 0.9), (116.0, 0.5), (58.0, 0.6), (130.5, 0.4)), 0.9)
SLOW = Tempo(((140.0, 1.0), (70.0, 0.9), (93.3, 0.5), (105.0, 0.4)), 0.9)


@pytest.mark.parametrize(
    ("found", "genres", "bpm"),
    [
        (FAST, {"drum and bass": 0.9, "house": 0.1}, 174),
        (FAST, {"Drum & Bass": 1.0}, 174),
        (FAST, {"hip hop": 0.8, "drum and bass": 0.2}, 87),
        (FAST, {"house": 0.97, "drum and bass": 0.03}, 116),
        (SLOW, {"dubstep": 1.0}, 140),
        (SLOW, {"Dub": 1.0}, 70),
        (SLOW, {"Trip-Hop": 1.0}, 70),
        (SLOW, {}, 140),
    ],
)
def test_the_genre_decides_between_readings(found, genres, bpm):
    chosen = choose_tempo(found, genres)
    assert chosen is not None
    assert chosen.bpm == bpm
    assert 0 < chosen.confidence <= found.confidence


def test_a_sure_genre_makes_the_choice_surer():
    def confidence(genres):
        return choose_tempo(FAST, genres).confidence

    assert confidence({"drum and bass": 1.0}) > confidence({"drum and bass": 0.5, "ambient": 0.5}) > confidence({})


def test_labels_without_a_usual_tempo_choose_as_no_label_does():
    for found in (FAST, SLOW):
        assert choose_tempo(found, {"ambient": 0.7, "Grandma's favourites": 0.3}) == choose_tempo(found, {})


def test_the_score_decides_within_a_range():
    found = Tempo(((120.0, 0.6), (130.0, 0.9), (90.0, 1.0)), 0.9)
    assert choose_tempo(found, {"techno": 1.0}).bpm == 130


@pytest.mark.parametrize("found", [None, Tempo((), 0.9, (120.0, 132.0)), Tempo(((120.0, 0.0), (-5.0, 1.0)), 0.9)])
def test_without_candidates_nothing_is_chosen(found):
    assert choose_tempo(found, {"house": 1.0}) is None


def test_the_users_ranges_come_before_the_built_in_ones():
    assert choose_tempo(FAST, {"drum and bass": 1.0}, {"Drum'n'Bass": (80, 90), "drum & bass": (80, 90)}).bpm == 87
    assert choose_tempo(SLOW, {"wonky": 1.0}, {"wonky": (60, 80)}).bpm == 70
    assert choose_tempo(SLOW, {"dub": 1.0}, {"dub": ()}) == choose_tempo(SLOW, {})


@pytest.mark.parametrize(
    ("label", "like"),
    [
        ("HOUSE", "house"),
        ("Deep House", "house"),
        ("House music", "house"),
        ("Hard House", "hard house"),
        ("DnB", "drum and bass"),
        ("Liquid D&B", None),
        ("liquid drum & bass", "drum and bass"),
        ("Psy-Trance", "psytrance"),
        ("UK Garage", "garage"),
        ("2 Step", "2-step"),
        ("gangsta rap", "rap"),
        ("Trap", "trap"),
        ("ambient", None),
        ("house of cards", None),
        ("", None),
    ],
)
def test_a_label_is_known_by_its_own_name_or_by_how_it_ends(label, like):
    assert range_bpm(label, {}) == (RANGES_BPM[like] if like else None)


@pytest.mark.parametrize(
    ("tag_bpm", "said"),
    [(128, "same"), (125, "same"), (132, "same"), (64, "octave"), (256.5, "octave"), (96, "differs"), (140, "differs")],
)
def test_a_tags_tempo_is_the_same_an_octave_away_or_another(tag_bpm, said):
    assert agreement(128.0, tag_bpm) == said
