"""Tracks that sound like a text: a search field, and words to browse by, while a model in use knows words.

Another process (indexer.listen.words_process) makes the vectors of texts; this one keeps the last few. Nothing is
stored.
"""

import asyncio
import json
import os
from asyncio.subprocess import Process
from collections import OrderedDict
from typing import Any

import numpy as np
from datasette.utils.asgi import Response

from indexer.config import Settings
from indexer.encoders.text import cleaned
from indexer.errors import IndexerError, ModelError, StoreError
from indexer.library.registered import in_use
from indexer.library.vectors.words import has_sounds, like_text
from indexer.models import word_list
from indexer.models.words import WordsModel, model_with_words
from indexer.upkeep.find import nothing_embedded
from indexer.web import child, neighbours
from indexer.web.context import ask, number, page, settings_of
from indexer.web.names import track_name
from indexer.wording import printable

MAX_TRACKS = 1000
KEPT_TEXTS = 200  # whose vectors stay in memory
MAX_CHARACTERS = 2_000  # of a text in an address
PATIENCE_S = 10.0  # for the derived file of a library's first search
SILENCE_LIMIT_S = 300.0  # after which the process is killed; it may load a large model from a slow disk


class TextVectors:
    """The server's side of the process of texts: starts it when needed, replaces it when it died, remembers answers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._kept: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()

    async def of(self, model: WordsModel, text: str) -> np.ndarray:
        """The vector (words,) of a cleaned text. Raises ModelError."""
        key = model.words_id, text
        if key not in self._kept:
            listed = await asyncio.to_thread(word_list.kept, model.checkpoint)
            self._kept[key] = listed[text] if text in listed else await self._ask(model, text)
            while len(self._kept) > KEPT_TEXTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    async def _ask(self, model: WordsModel, text: str) -> np.ndarray:
        async with self._turn:  # one text at a time
            try:
                # A process that was idle may end just when the text comes; one that hangs is not asked again.
                line = await self._line(text) or await self._line(text)
            except TimeoutError:
                line = b""
        answer = json.loads(line) if line else {"error": "the text encoder's process ended; try again"}
        if "error" in answer:
            raise ModelError(answer["error"])
        if answer["words_id"] != model.words_id:
            raise ModelError("another model was put in use meanwhile; try again")
        return np.asarray(answer["vector"], np.float32)

    async def _line(self, text: str) -> bytes:
        """What the process answers; empty where it ended, TimeoutError where it says nothing. It is gone then."""
        process = await self._running()
        assert process.stdout is not None
        child.send(process, {"text": text})
        line = b""
        try:
            line = await asyncio.wait_for(process.stdout.readline(), SILENCE_LIMIT_S)
        finally:
            if not line:
                child.kill(process)
                await process.wait()
                self._process = None
        return line

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await child.start("indexer.listen.words_process", self._settings, longest_answer=1 << 24)
        return self._process


async def find(request: Any, datasette: Any) -> dict[str, Any]:
    """What a request asks for: {text, genre, path, encoder, tracks, error}; tracks is None without a text."""
    settings = settings_of(datasette)
    assert settings is not None
    asked = {key: (request.args.get(key) or "").strip() for key in ("text", "genre", "path")}
    count = min(number(request.args.get("n") or 50) or 50, MAX_TRACKS)
    found: dict[str, Any] = {**asked, "encoder": None, "tracks": None, "error": None}
    try:
        library = await ask(datasette, in_use)
        model = await asyncio.to_thread(model_with_words, settings, library)
        found["encoder"] = model.encoder.name
        if not asked["text"]:
            return found
        if len(asked["text"]) > MAX_CHARACTERS:
            raise ModelError(f"a text of more than {MAX_CHARACTERS:,} characters: say it in fewer words")
        text = cleaned(asked["text"])
        if not await ask(datasette, lambda conn: has_sounds(conn, model.words_id)):
            raise StoreError(nothing_embedded(model.encoder.name))
        vector = await _vectors(datasette, settings).of(model, text)
        below = os.fsencode(asked["path"]) if asked["path"] else None

        def nearest(conn: Any) -> list[dict[str, Any]] | None:
            sounds = neighbours.maker.newest(conn, settings.db, [model.words_id])
            if sounds is None:
                return None
            return like_text(conn, sounds[0], vector, count, genre=asked["genre"] or None, below=below)

        tracks = await ask(datasette, nearest)
        if tracks is None:
            await asyncio.to_thread(neighbours.maker.wait, PATIENCE_S)
            tracks = await ask(datasette, nearest)
        if tracks is None:
            raise StoreError("the library is being prepared for this search, once: ask again in a minute")
    except IndexerError as e:
        return found | {"error": str(e)}
    shown = [{**track, "path": printable(os.fsencode(track["path"])), "name": _name(track)} for track in tracks]
    return found | {"tracks": shown}


def _name(track: dict[str, Any]) -> str:
    return track_name(track["artist"], track["title"], printable(os.fsencode(track["path"])))


def _vectors(datasette: Any, settings: Settings) -> TextVectors:
    """The vectors of texts of this server, made at the first call."""
    found: TextVectors | None = getattr(datasette, "indexer_text_vectors", None)
    if found is None:
        found = datasette.indexer_text_vectors = TextVectors(settings)
    return found


async def find_page(request: Any, datasette: Any) -> Any:
    """`/-/find?text=...&genre=...&path=...&n=50`."""
    found = await find(request, datasette)
    return await page(datasette, request, "find.html", {**found, "words": word_list.sentences()})


async def find_json(request: Any, datasette: Any) -> Any:
    """`/-/find.json`: the same as JSON; 409 with {error} where it cannot be answered."""
    found = await find(request, datasette)
    return Response.json(found, status=409 if found["error"] else 200)


MENU = ("By words", "/-/find")
ROUTES = [(r"/-/find$", find_page), (r"/-/find\.json$", find_json)]
