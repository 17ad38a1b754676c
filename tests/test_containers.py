"""Every container of the registry is known wherever containers are listed."""

import pytest

from indexer.files.audio import opened
from indexer.files.audio.stated_length import HEADER_STATES_LENGTH
from indexer.files.children.examine import _NAMES
from indexer.files.containers import AUDIO_SUFFIXES, CONTAINERS
from indexer.files.walk import SUFFIXES
from indexer.upkeep.doctor import READ_BY
from tests.helpers.synth import CONTAINERS as SYNTHESISED

SYNTHESISED_AS = {"m4a": "mp4", "alac": "mp4", "wma": "asf"}
NOT_SYNTHESISED = {"speex", "musepack", "ape", "tta", "dsf"}  # docs/containers.md says so; tests build their bytes
# FFmpeg's names of formats whose stated length stated_length.py reads itself, and of the one that states none.
OWN_LENGTH, NO_LENGTH = {"mp3", "wav", "asf", "ogg"}, {"aac"}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=lambda container: container.name)
def test_a_container_is_complete(container):
    assert sum(map(bool, (container.magic, container.sniff, container.search))) == 1
    assert set(container.suffixes) <= AUDIO_SUFFIXES
    assert {suffix.encode() for suffix in container.suffixes} <= SUFFIXES
    assert set(container.demuxers) <= set(opened.FORMATS.split(","))
    assert set(container.demuxers) & (HEADER_STATES_LENGTH | OWN_LENGTH | NO_LENGTH)
    assert container.read_fields or not container.places  # what is written is read back
    assert bool(container.pictures) == bool(container.read_fields)


def test_the_keys_of_all_places_agree():
    assert {SYNTHESISED_AS.get(name, name) for name in SYNTHESISED} | NOT_SYNTHESISED == set(CONTAINERS)
    assert {container for container, _ in READ_BY} <= set(CONTAINERS)
    assert {kind for _, kind in READ_BY} <= set(_NAMES)
    suffixes = [suffix for container in CONTAINERS.values() for suffix in container.suffixes]
    assert len(suffixes) == len(set(suffixes))
