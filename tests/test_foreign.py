"""JSON that others wrote has a value or is a ValueError, whatever it is, and odd texts are no names."""

import json

import pytest

from indexer.files.foreign import NAME_CHARS, is_name, parse_json
from indexer.files.tags.genre import parse_original, parse_ours
from indexer.library.lock import watch_lock
from indexer.models.records import read_json
from indexer.watch.status import read_status, status_path

DEEP = "[" * 100_000
BAD_JSON = {
    "deep": DEEP,
    "deep and whole": '{"a":' * 500 + "1" + "}" * 500,
    "no json": "{",
    "surrogate": '{"genre": "\\ud800"}',
    "digits": "1" * 5000,
    "empty": "",
}


@pytest.mark.parametrize("text", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_what_is_no_usable_json_is_a_value_error(text, tmp_path):
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match=r"^(?!.*Recursion)"):
            parse_json(form)
    assert parse_ours(text) is None
    assert parse_original(text) is None
    (tmp_path / "record.json").write_text(text)
    assert read_json(tmp_path / "record.json") is None


def test_json_that_can_be_used_is_its_value():
    value = {"a": [1, 2.5, None, {"b": "\u00e9\U0001f3b5"}], "": True}
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value
    nested = "[" * 60 + "]" * 60
    assert parse_json(nested) == json.loads(nested)


@pytest.mark.parametrize(
    "change",
    [{"genre": 5}, {"label": ["house"]}, {"model": None}, {"confidence": "1"}, {"confidence": float("nan")},
     {"confidence": 2}, {"confidence": 10**400}, {"confidence": float("inf")}],
)  # fmt: skip
def test_a_record_of_another_form_in_a_tag_is_not_ours(change):
    ours = {"genre": "House", "label": "house", "confidence": 0.9, "model": "mine"}
    assert parse_ours(json.dumps(ours)) is not None
    assert parse_ours(json.dumps(ours | change)) is None


@pytest.mark.parametrize("text", ["house", "Drum & Bass", "\u30c6\u30af\u30ce", "x" * NAME_CHARS])
def test_names(text):
    assert is_name(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "a\0b", "a\x1b[2Jb", "a\nb", "a\u202eb", "a\x9bb", "\udcff", "x" * (NAME_CHARS + 1), None, 5],
)
def test_what_is_no_name(text):
    assert not is_name(text)


@pytest.mark.parametrize(
    "text",
    [DEEP, "[]", '{"pid": 1}', '{"pid": 1, "state": "idle", "roots": [5]}', '{"pid": 1, "state": "x", "total": "9"}'],
)
def test_a_status_file_of_another_form_is_no_status(tmp_path, text):
    db = tmp_path / "library.db"
    status_path(db).write_text(text)
    with watch_lock(db):
        assert read_status(db)["state"] == "starting"
