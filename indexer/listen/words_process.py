"""The process that makes vectors of texts for the web server, so that the server itself never loads torch.

It loads the text encoder with the first text, and ends when no text has come for a while, and when stdin ends, which is
when the server ends. Each message is one line of JSON. On stdin: first the settings, then {text}. On stdout, for each
text: {vector, words_id} or {error}. It never uses the network.
"""

import json
import os
import queue
import sys
import threading
from contextlib import suppress
from typing import Any

from indexer.config import from_json
from indexer.errors import IndexerError
from indexer.library.registered import in_use_by
from indexer.models.words import Texts, model_with_words


def main() -> None:
    """Answer until stdin ends, or until no text has come for ``unload_after_s``."""
    settings = from_json(json.loads(sys.stdin.readline()))
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read, args=(orders,), name="orders", daemon=True).start()
    texts = Texts(settings)
    with suppress(queue.Empty):
        while True:
            text = orders.get(timeout=settings.unload_after_s)["text"]
            try:
                model = model_with_words(settings, in_use_by(settings.db))
                (vector,) = texts.vectors(model, [text])
                answer = {"vector": vector.tolist(), "words_id": model.words_id}
            except IndexerError as e:
                answer = {"error": str(e)}
            except Exception as e:  # torch and transformers may raise anything; the next text must still work
                answer = {"error": " ".join(f"the text could not be read ({type(e).__name__}: {e})".split())[:300]}
            with suppress(BrokenPipeError):
                sys.stdout.write(json.dumps(answer) + "\n")
                sys.stdout.flush()
    os._exit(0)  # the interpreter's own end would wait for the thread that reads stdin


def _read(orders: "queue.Queue[dict[str, Any]]") -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
