"""`indexer export --parquet DIR`: writes the library as Parquet files, for DuckDB, Spark, pandas or a vector database.

Owns the folder's layout. An export is written beside its folder and then renamed, so that an interrupted one leaves the
earlier one whole. Reads the library in one transaction, a batch at a time, and never changes it; never replaces a
folder that holds anything but an export. Also reads the vectors of an export. pyarrow is an extra, so only functions
import it.

A partition is named after the model's name and id: the id tells two models of one name apart, and the name keeps
readers that guess types from taking twelve hexadecimal digits for a number. Vectors are stored as float32, though the
library keeps float16: the values are the same, and Spark reads no float16. They are plain lists: with lists of a fixed
size pyarrow cannot open two encoders of different widths as one data set.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from indexer import __version__
from indexer.errors import ConfigError, StoreError
from indexer.files.foreign import parse_json
from indexer.files.replace import sync_folder
from indexer.library import registered, tables
from indexer.library.facts import sound_vectors
from indexer.library.lock import export_lock
from indexer.library.sqlite import Reader, now
from indexer.library.tables import TABLES
from indexer.wording import escaped

FORMAT, FORMAT_VERSION = "indexer export", 1
MANIFEST = "manifest.json"
FILE_ROWS = 50_000  # most rows in a file
GROUP_ROWS = 10_000  # most rows in a row group, which is held in memory
_GROUP_NUMBERS = 4_000_000  # most numbers of vectors in a row group: 16 MB
_GROUP_SCORES = 200_000  # most scores in a row group
_PART = re.compile(r"part-\d{5}\.parquet")

Row = TypeVar("Row")
_FOLDERS = (*TABLES, "embeddings", "predictions")


def export(db: Path, folder: Path, progress: Callable[[int, int], None] = lambda _done, _total: None) -> dict[str, Any]:
    """Write the library into ``folder``, in the place of an earlier export.

    Returns {folder, recordings, files, corrections, embeddings, predictions, damaged, bytes, elapsed_s}: the rows
    written to each table; damaged: embeddings that were left out. Raises ConfigError without pyarrow and for a folder
    that holds something else, StoreError where it cannot be written, LockedError while another export writes it.
    """
    started = time.monotonic()
    _arrow()
    folder = Path(os.path.realpath(folder))
    if folder.is_mount() or not folder.parent.is_dir():
        raise ConfigError(f"{folder}: name a new folder inside one that is there")
    try:
        with _staging_folder(folder) as staging:
            _refuse_other(folder)
            with tables.snapshot(db) as conn:
                manifest = _Export(conn, staging / "new", progress).write()
            size_bytes = _make_durable(staging / "new")
            if folder.exists():
                folder.rename(staging / "old")
            (staging / "new").rename(folder)
            sync_folder(folder.parent)
    except OSError as e:
        raise StoreError(f"{folder}: cannot be written ({e.strerror or e})") from e
    return {
        "folder": str(folder),
        **{table: manifest[table] for table in TABLES},
        "embeddings": sum(e["rows"] for e in manifest["encoders"]),
        "predictions": sum(h["rows"] for h in manifest["heads"]),
        "damaged": sum(e["damaged"] for e in manifest["encoders"]),
        "bytes": size_bytes,
        "elapsed_s": round(time.monotonic() - started, 3),
    }


def read_embeddings(folder: Path, encoder: str) -> tuple[list[str], np.ndarray]:
    """Read one encoder's vectors from an export: (audio_sha256 of each row, vectors (n, width) float32).

    ``encoder``: its name, id or partition. Every value equals the float16 that the library holds. Raises ConfigError
    for a folder that is no export, and for an encoder that it does not hold.
    """
    _, parquet = _arrow()
    held = [e for e in _manifest(folder)["encoders"] if e["partition"]]
    found = [e for e in held if encoder in (e["name"], e["id"], e["partition"])]
    if len(found) != 1:
        names = ", ".join(e["partition"] for e in held) or "none"
        raise ConfigError(
            f"'{encoder}' is {'more than one' if found else 'not one'} of the encoders in {folder}: {names}"
        )
    partition, width = found[0]["partition"], found[0]["width"]
    parts = [
        parquet.ParquetFile(path) for path in sorted((folder / "embeddings" / f"encoder={partition}").glob("*.parquet"))
    ]
    digests: list[str] = []
    vectors = np.empty((sum(part.metadata.num_rows for part in parts), width), np.float32)
    for part in parts:
        with part:
            for batch in part.iter_batches(columns=["audio_sha256", "vector"]):
                first = len(digests)
                digests += batch.column("audio_sha256").to_pylist()
                vectors[first : len(digests)] = batch.column("vector").flatten().to_numpy().reshape(-1, width)
    return digests, vectors


def _arrow() -> tuple[Any, Any]:
    """The library pyarrow and its Parquet module. Raises ConfigError where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise ConfigError("Parquet needs pyarrow: pip install 'edm-indexer[parquet]'") from e
    return pyarrow, pyarrow.parquet


# ---- the folder


@contextmanager
def _staging_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside ``folder`` for the time of one export.

    What a killed export left in it is removed first, and an earlier export that was set aside is put back.
    """
    staging = folder.with_name(f".{folder.name}.exporting")
    with export_lock(staging):
        try:
            _settle(staging, folder)
            yield staging
        finally:
            _settle(staging, folder)
            shutil.rmtree(staging, ignore_errors=True)


def _settle(staging: Path, folder: Path) -> None:
    if (staging / "old").exists() and not folder.exists():
        (staging / "old").rename(folder)
    for name in ("new", "old"):
        shutil.rmtree(staging / name, ignore_errors=True)


def _refuse_other(folder: Path) -> None:
    """Raise ConfigError where ``folder`` holds anything but an export."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    _manifest(folder)
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if path != folder / MANIFEST and (
            inside.parts[0] not in _FOLDERS or not (path.is_dir() or _PART.fullmatch(path.name))
        ):
            raise ConfigError(
                f"{folder}: holds {escaped(str(inside))}, which is not part of an export; "
                "move it away or name another folder"
            )


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export. Raises ConfigError for a folder that is not an export."""
    try:
        found = parse_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ConfigError(f"{folder}: is not an export of indexer")
    if found.get("format_version") != FORMAT_VERSION:
        raise ConfigError(f"{folder}: is an export of another version of indexer")
    return found


def _make_durable(folder: Path) -> int:
    """Sync all files and folders to the disk; returns the bytes of all files."""
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return sum(path.stat().st_size for path in paths if path.is_file())


# ---- the content


class _Export:
    """Writes one state of the library into a new folder."""

    def __init__(self, reader: Reader, folder: Path, progress: Callable[[int, int], None]) -> None:
        self._arrow, self._parquet = _arrow()
        self._reader = reader
        self._folder = folder
        self._progress = progress
        self._about = {"version": __version__, "exported_at": now()}
        self._done = self._total = 0

    def write(self) -> dict[str, Any]:
        """Write all tables and the manifest; returns the manifest."""
        encoders = [_encoder_entry(encoder) for encoder in registered.encoders(self._reader)]
        heads = [{**asdict(head), "labels": list(head.labels)} for head in registered.heads(self._reader)]
        embedded = tables.embeddings_by_encoder(self._reader)
        predicted = tables.predictions_by_head(self._reader)
        self._total = sum(
            (
                *embedded.values(),
                *predicted.values(),
                *(tables.count_rows(self._reader, table) for table in TABLES),
            )
        )
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **self._about,
            **{table: self._plain(table) for table in TABLES},
            "encoders": [
                {**e, "partition": None, "rows": 0, "damaged": 0} if e["id"] not in embedded else self._embeddings(e)
                for e in encoders
            ],
            "heads": [
                {**h, "partition": None, "rows": 0} if h["id"] not in predicted else self._predictions(h) for h in heads
            ],
        }
        (self._folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        return manifest

    def _plain(self, table: str) -> int:
        _, columns = tables.columns_of(self._reader, table)
        schema = self._arrow.schema([(c.name, self._arrow.type_for_alias(c.type)) for c in columns])
        pages = self._counted(tables.table_pages(self._reader, table, GROUP_ROWS))
        return self._write(table, schema, ([*zip(*page, strict=True)] for page in pages))

    def _embeddings(self, encoder: dict[str, Any]) -> dict[str, Any]:
        pa, width, damaged = self._arrow, encoder["width"], 0
        schema = self._schema(
            encoder, [("audio_sha256", pa.string()), ("units", pa.int64()), ("vector", pa.list_(pa.float32()))]
        )

        def columns() -> Iterator[list[Any]]:
            nonlocal damaged
            page_rows = max(1, min(GROUP_ROWS, _GROUP_NUMBERS // width))
            for page in self._counted(tables.embedding_pages(self._reader, encoder["id"], page_rows)):
                sound, vectors = sound_vectors([row.vector for row in page], width)
                damaged += len(page) - len(sound)
                ends = np.arange(0, vectors.size + 1, width, dtype=np.int32)
                yield [
                    [page[i].audio_sha256 for i in sound],
                    [page[i].units for i in sound],
                    pa.ListArray.from_arrays(ends, pa.array(vectors.ravel())),
                ]

        partition = _partition(encoder)
        rows = self._write(f"embeddings/encoder={partition}", schema, columns(), use_dictionary=False)
        return {**encoder, "partition": partition, "rows": rows, "damaged": damaged}

    def _predictions(self, head: dict[str, Any]) -> dict[str, Any]:
        pa, labels = self._arrow, head["labels"]
        schema = self._schema(
            head,
            [
                ("audio_sha256", pa.string()),
                ("genre", pa.string()),
                ("confidence", pa.float64()),
                ("threshold", pa.float64()),
                ("decided", pa.bool_()),
                ("reason", pa.string()),
                ("second_genre", pa.string()),
                ("scores", pa.map_(pa.string(), pa.float64())),
            ],
        )

        def columns() -> Iterator[list[Any]]:
            page_rows = max(1, min(GROUP_ROWS, _GROUP_SCORES // len(labels)))
            for page in self._counted(tables.prediction_pages(self._reader, head["id"], page_rows)):
                scores = tables.scores_between(self._reader, head["id"], page[0].recording_id, page[-1].recording_id)
                recordings, digests, genres, confidences, thresholds, decided, reasons, seconds = zip(
                    *page, strict=True
                )
                yield [
                    digests,
                    genres,
                    confidences,
                    thresholds,
                    [bool(d) for d in decided],
                    reasons,
                    seconds,
                    [
                        [(label, of_one[label]) for label in labels if label in of_one]
                        for of_one in (scores.get(recording, {}) for recording in recordings)
                    ],
                ]

        partition = _partition(head)
        return {**head, "partition": partition, "rows": self._write(f"predictions/head={partition}", schema, columns())}

    def _schema(self, about: dict[str, Any], columns: list[tuple[str, Any]]) -> Any:
        """A schema of these columns, whose metadata names the export and the model that they come from."""
        return self._arrow.schema(columns, {"indexer": json.dumps({**self._about, **about})})

    def _counted(self, pages: Iterator[list[Row]]) -> Iterator[list[Row]]:
        """The same pages; reports each as done when the next one is asked for."""
        for page in pages:
            yield page
            self._done += len(page)
            self._progress(self._done, self._total)

    def _write(self, folder: str, schema: Any, batches: Iterator[list[Any]], **options: Any) -> int:
        """Write batches of columns as part-00000.parquet and so on, a row group each; returns the rows.

        Writes one part even without rows, so that readers find a file to open.
        """
        to = self._folder / folder
        to.mkdir(parents=True)
        made = (
            self._arrow.record_batch(
                [self._array(c, field.type) for c, field in zip(columns, schema, strict=True)], schema=schema
            )
            for columns in batches
        )
        batch, rows, part = next(made, None), 0, 0
        while batch is not None or part == 0:
            with self._parquet.ParquetWriter(
                to / f"part-{part:05}.parquet", schema, compression="zstd", **options
            ) as writer:
                end = rows + FILE_ROWS
                while batch is not None and rows + batch.num_rows <= end:
                    writer.write_batch(batch)
                    rows += batch.num_rows
                    batch = next(made, None)
            part += 1
        return rows

    def _array(self, values: Any, kind: Any) -> Any:
        return values if isinstance(values, self._arrow.Array) else self._arrow.array(values, kind)


def _encoder_entry(encoder: registered.RegisteredEncoder) -> dict[str, Any]:
    return {
        "id": encoder.id,
        "name": encoder.name,
        "width": encoder.width,
        "unit_s": encoder.unit_s,
        "parts": list(encoder.joins) or None,
        "in_use": encoder.in_use,
    }


def _partition(about: dict[str, Any]) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._]+', '-', about['name'])[:60]}-{about['id'][:12]}"
