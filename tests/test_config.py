import os
from pathlib import Path

import pytest

from indexer.config import Settings, from_json, load_settings, made, to_json
from indexer.errors import ConfigError
from indexer.upkeep.settings_file import keep


def settings_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_flags_win_over_environment_over_file_over_defaults(tmp_path):
    path = settings_file(tmp_path, "jobs = 2\nport = 9000\nhost = 'a'\n")
    settings = load_settings(path, {"jobs": 4}, {"INDEXER_JOBS": "3", "INDEXER_PORT": "9001"})
    assert (settings.jobs, settings.port, settings.host, settings.write_tags) == (4, 9001, "a", "fill")


def test_every_kind_of_value_is_read_from_file_and_environment(tmp_path):
    path = settings_file(
        tmp_path, "roots = ['~/Music']\nmin_confidence = 1\n[labels]\n'drum and bass' = 'Drum & Bass'\n"
    )
    settings = load_settings(path, {}, {"INDEXER_PRESERVE_MTIME": "true", "INDEXER_IGNORE": "*.tmp:demo"})
    assert settings.roots == (Path("~/Music").expanduser(),)
    assert settings.min_confidence == 1.0
    assert settings.text_for("Drum and Bass") == "Drum & Bass"
    assert settings.preserve_mtime is True
    assert settings.ignore == ("*.tmp", "demo")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("job = 2", "unknown setting 'job'; did you mean 'jobs'?"),
        ("write_tags = 'fil'", "'fil' is not one of fill, replace, append, off; did you mean 'fill'?"),
        ("jobs = 'two'", "jobs: 'two' is not a whole number"),
        ("jobs = true", "jobs: True is not a whole number"),
        ("jobs = -1", "jobs is -1"),
        ("roots = '/music'", "roots: '/music' is not a list"),
        ("labels = {house = 1}", "labels: {'house': 1} is not a table"),
        ("min_confidence = 80", "must be between 0 and 1"),
        ("port = 70000", "port is 70000"),
        ("jobs = ", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(tmp_path, text, said):
    with pytest.raises(ConfigError) as e:
        load_settings(settings_file(tmp_path, text), {}, {})
    assert said in str(e.value)


def test_a_wrong_value_in_the_environment_names_the_variable():
    with pytest.raises(ConfigError, match="INDEXER_JOBS: 'many' is not a whole number"):
        load_settings(None, {}, {"INDEXER_JOBS": "many"})


def test_a_named_settings_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.toml", {}, {})


@pytest.mark.parametrize(
    ("label", "text"), [("house", "House"), ("drum and bass", "Drum and Bass"), ("acid TECHNO", "Acid Techno")]
)
def test_a_label_without_a_text_is_written_in_title_case(label, text):
    assert Settings(db=Path("x.db"), models=Path("m")).text_for(label) == text


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch):
    """As in a container that runs as a user number of its own."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(ConfigError, match="no home folder: set HOME"):
        load_settings(None, {}, {})


def test_a_path_of_a_user_who_is_not_there_is_one_line():
    with pytest.raises(ConfigError, match=r"~no-such-user/x\.db: there is no such user"):
        load_settings(None, {}, {"INDEXER_DB": "~no-such-user/x.db"})


def test_keeping_a_setting_changes_nothing_else_in_the_file(tmp_path):
    path = settings_file(
        tmp_path, "# mine\nroots = [  # two\n  '/a',\n  '/b',\n]\nport = 9000 # here\n[labels]\nencoder = 'E'\n"
    )
    path.chmod(0o640)
    (tmp_path / "link.toml").symlink_to(path)
    keep(tmp_path / "link.toml", {"roots": ['/c "x" ü'], "encoder": "musicnn"})
    assert path.read_text() == (
        'encoder = "musicnn"\n# mine\nroots = ["/c \\"x\\" ü"]\nport = 9000 # here\n[labels]\nencoder = \'E\'\n'
    )
    assert path.stat().st_mode & 0o777 == 0o640
    assert made(path, {"INDEXER_JOBS": "2"}) == {"roots", "port", "labels", "encoder", "jobs"}
    keep(tmp_path / "new" / "config.toml", {"write_tags": "off"})
    assert load_settings(tmp_path / "new" / "config.toml", {}, {}).write_tags == "off"


@pytest.mark.parametrize(
    ("text", "values", "said"),
    [
        ('"port" = 1\n', {"port": 2}, "set port there by hand"),
        ("", {"roots": ["/\udcff"]}, "holds UTF-8 only"),
        ("port = \n", {"port": 2}, "not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_changed_safely_stays_as_it_is(tmp_path, text, values, said):
    path = settings_file(tmp_path, text)
    with pytest.raises(ConfigError, match=said):
        keep(path, values)
    assert path.read_text() == text


def test_playlists_are_tables_of_their_own(tmp_path):
    text = """
[playlists."House, fast"]
file = "~/fast.m3u8"
genre = "house"
tempo = [126, 132.5]
key = ["8A", "9A"]
confidence = 1
[playlists.new]
file = "/lists/new.xml"
sql = "SELECT id FROM tracks"
"""
    settings = load_settings(settings_file(tmp_path, text), {}, {})
    fast = settings.playlists["House, fast"]
    assert (fast.file, fast.genre, fast.tempo) == (Path("~/fast.m3u8").expanduser(), ("house",), (126.0, 132.5))
    assert (fast.key, fast.confidence, fast.relative, fast.sql) == (("8A", "9A"), 1.0, False, None)
    assert from_json(to_json(settings)) == settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "playlists.x: 1 is not a table"),
        ("x = {genre = 'house'}", "playlists.x: needs 'file'"),
        ("x = {file = 'a.m3u8'}", "playlists.x: needs either sql or some of genre, tempo, key, confidence"),
        ("x = {file = 'a.m3u8', sql = 'SELECT 1', genre = 'house'}", "needs either sql or"),
        ("x = {file = 'a.mp3', genre = 'house'}", "must end in .m3u8, .m3u or .xml"),
        ("x = {file = 'a.m3u8', gnre = 'house'}", "unknown setting 'gnre'; did you mean 'genre'?"),
        ("x = {file = 'a.m3u8', genre = 1}", "playlists.x.genre: [1] is not a list"),
        ("x = {file = 'a.m3u8', tempo = 128}", "must be two tempos"),
        ("x = {file = 'a.m3u8', tempo = [130, 120]}", "must be two tempos"),
        ("x = {file = 'a.m3u8', tempo = ['a', 'b']}", "is not a list"),
        ("x = {file = 'a.m3u8', confidence = 80}", "must be between 0 and 1"),
        ('x = {file = "/a\\u0000.m3u8", genre = "a"}', "is not a path"),
        ("x = {file = 'lists/a.m3u8', genre = 'house'}", "must be a whole path, such as ~/Music/a.m3u8"),
        (
            "x = {file = '/a.m3u8', genre = 'a'}\ny = {file = '/a.m3u8', genre = 'b'}",
            "'x' and 'y' have the same file, /a.m3u8",
        ),
    ],
)
def test_a_wrong_playlist_is_named_with_what_would_be_right(tmp_path, text, said):
    with pytest.raises(ConfigError) as e:
        load_settings(settings_file(tmp_path, f"[playlists]\n{text}\n"), {}, {})
    assert said in str(e.value)


def test_the_tempi_of_a_genre_are_two_numbers_or_none(tmp_path):
    text = '[tempo_ranges]\ntechno = [125, 160.5]\n"my house" = []\n'
    settings = load_settings(settings_file(tmp_path, text), {}, {})
    assert settings.tempo_ranges == {"techno": (125.0, 160.5), "my house": ()}
    assert from_json(to_json(settings)) == settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("techno = 130", "tempo_ranges.techno: 130 is not a list"),
        ("techno = ['a', 'b']", "is not a list"),
        ("techno = [130]", "must be the slowest and the fastest tempo"),
        ("techno = [150, 120]", "must be the slowest and the fastest tempo"),
        ("techno = [0, 120]", "from 20 to 400"),
        ("techno = [nan, nan]", "must be the slowest and the fastest tempo"),
    ],
)
def test_wrong_tempi_of_a_genre_are_named_with_what_would_be_right(tmp_path, text, said):
    with pytest.raises(ConfigError) as e:
        load_settings(settings_file(tmp_path, f"[tempo_ranges]\n{text}\n"), {}, {})
    assert said in str(e.value)
