"""Playlists that stay true by themselves: the answers of the user's own questions, kept in files by every scan."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from indexer.analysis.camelot import Key, parse_key
from indexer.config import LivingPlaylist, Settings
from indexer.errors import ConfigError, IndexerError, StoreError
from indexer.exchange import m3u, own_files, rekordbox
from indexer.exchange.dj_paths import PathMap
from indexer.exchange.genres import genre_of
from indexer.exchange.own_files import Output
from indexer.library import apart, listed, questions
from indexer.library.readonly import reading
from indexer.library.roots import offline_roots
from indexer.library.sqlite import Reader


def refresh(reader: Reader, settings: Settings) -> list[str]:
    """Write the files whose answers have changed; returns what went wrong, a line each.

    A file on a drive that is away waits for it: in the empty mount point it would be hidden later.
    """
    problems = []
    away = [Path(os.fsdecode(root)) for root in offline_roots(reader)]
    try:
        for name, playlist in settings.playlists.items():
            if any(map(Path(os.path.realpath(playlist.file.parent)).is_relative_to, away)):
                continue
            try:
                _write(reader, settings, name, playlist)
            except IndexerError as e:
                problems.append(f"playlist {name}: {e}")
    finally:
        apart.end()
    return problems


def keep_true(settings: Settings) -> list[str]:
    """``refresh`` after a change that no scan made. Raises StoreError."""
    with reading(settings.db) as conn:
        return refresh(conn, settings)


def tracks_of(reader: Reader, settings: Settings, playlist: LivingPlaylist) -> "array[int]":
    """The listed tracks that answer the question of a playlist, each once. Raises StoreError for SQL that cannot be
    answered, ConfigError for a key that is none.
    """
    if playlist.sql is None:
        return listed.matching(
            reader,
            labels=[label for genre in playlist.genre for label in _labels(settings, genre)],
            tempo_bpm=(playlist.tempo[0], playlist.tempo[1]) if playlist.tempo else None,
            keys=[_key(text) for text in playlist.key],
            confidence=playlist.confidence,
        )
    found = questions.tracks_of(settings.db, settings.aliases, playlist.sql)
    if found is None:
        raise StoreError("its SQL must have a column id, the number of a track")
    known = frozenset(file_id for file_id, _ in listed.paths(reader))
    return array("q", (file_id for file_id in found if file_id in known))


def _key(text: str) -> Key:
    key = parse_key(text)
    if key is None:
        raise ConfigError(f"'{text}' is no key, such as 8A or Am")
    return key


def _labels(settings: Settings, genre: str) -> Iterator[str]:
    """The labels that a genre means: itself, and those that are written into tags as it stands there."""
    yield genre
    yield from (label for label, text in settings.labels.items() if text.casefold() == genre.casefold())


def _write(reader: Reader, settings: Settings, name: str, playlist: LivingPlaylist) -> None:
    ids = tracks_of(reader, settings, playlist)
    there = PathMap(settings.dj_map).there

    def write(out: Output) -> None:
        tracks = listed.tracks(reader, ids)
        if is_xml(playlist.file):
            told = [rekordbox.Playlist(name, ids)]
            rekordbox.write(out, tracks, len(ids), told, there=there, genre_of=genre_of(settings))
        else:
            m3u.write(out, tracks, m3u.relative_to(playlist.file.parent) if playlist.relative else there)

    own_files.write_sealed(playlist.file, own_files.XML if is_xml(playlist.file) else own_files.M3U8, write)


def is_xml(file: Path) -> bool:
    """Whether a playlist's file is XML for rekordbox."""
    return file.suffix.lower() == ".xml"
