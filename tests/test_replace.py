"""Files of ours that are written as a whole: after an error the old one stands, and nothing is left beside it."""

import os
import stat

import pytest

from indexer.errors import ConfigError
from indexer.files.replace import replace_text, replacing


def test_a_block_that_ends_well_replaces_the_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path, 0o640) as file:
        file.write(b"new")
        assert path.read_text() == "old"
        assert os.path.dirname(file.name) == str(tmp_path)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a"]


def test_after_an_error_the_old_file_stands_and_nothing_is_beside_it(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(TypeError), replacing(path) as file:
        file.write("no bytes")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_text_keeps_the_mode_of_the_file_that_it_replaces(tmp_path):
    path = tmp_path / "made" / "a.toml"
    replace_text(path, "ü")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    replace_text(path, "ö")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == ("ö".encode(), 0o644)
    with pytest.raises(ConfigError, match="cannot be written"):
        replace_text(path / "below", "")
