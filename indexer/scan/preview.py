"""Lists what a scan or `tags apply` would do, without changing the library or opening a music file."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from indexer.config import Settings
from indexer.files.audio.identity import Stat
from indexer.files.tags.blocks.blocks import BPM, KEY
from indexer.files.tags.genre import parse_ours
from indexer.files.tags.read import Tags
from indexer.files.walk import Names, folders_to_scan, walk
from indexer.heads.decide import is_decided
from indexer.library.below import known_files, labelled_files
from indexer.library.readonly import open_readonly
from indexer.library.registered import in_use
from indexer.library.roots import root_paths
from indexer.library.set_fields import written_sets
from indexer.library.sqlite import Connection, Row
from indexer.models.choice import choose
from indexer.scan.difference import compare
from indexer.scan.policy import Label, edit_for, held_back, to_add
from indexer.scan.set_fields import set_edits
from indexer.wording import printable

MAX_LISTED = 1000  # paths listed for each kind; the counts include all


def preview(settings: Settings, paths: Sequence[Path], *, explicit_tags: bool = False) -> dict[str, Any]:
    """Compare the folders with the library: {dry_run, new, changed, ..., tag_writes, paths, writes}.

    paths: by kind of difference. writes: {path, before, after, confidence} of known files, with ``adds`` where a tempo,
    a key or a set's label is to be added, None where a label is to be taken away; the genres of new files are not known
    yet. explicit_tags: include genres that were undone or refused, as `tags apply` does.
    """
    conn = open_readonly(settings.db) if settings.db.exists() else None
    known = root_paths(conn) if conn else []
    counts = dict.fromkeys(("new", "changed", "unchanged", "back", "vanished", "unlisted"), 0)
    listed: dict[str, list[str]] = {kind: [] for kind in counts if kind != "unchanged"}
    writes: list[dict[str, Any]] = []
    count = 0
    for target in folders_to_scan(paths, settings.roots, known):
        rows = known_files(conn, target) if conn else iter(())
        leaves_out = partial(Names(settings.ignore).leave_out, folder=target)
        for found, path, _ in compare(rows, walk(target, settings.ignore), leaves_out):
            if found == "left out":
                continue
            kind = {"renumbered": "unchanged", "replaced": "changed"}.get(found, found)
            counts[kind] += 1
            if kind in listed and len(listed[kind]) < MAX_LISTED:
                listed[kind].append(printable(path))
        for write in _writes(conn, settings, target, explicit=explicit_tags) if conn else ():
            count += 1
            writes += [write] if count <= MAX_LISTED else []
    if conn:
        conn.close()
    return {"dry_run": True, **counts, "tag_writes": count, "paths": listed, "writes": writes}


def _writes(conn: Connection, settings: Settings, target: bytes, *, explicit: bool) -> Iterator[dict[str, Any]]:
    chosen = choose(settings, in_use(conn))
    head = chosen.head if chosen else None
    threshold = settings.threshold(head.threshold) if head else 1.0
    adds = settings.write_tags_bpm or settings.write_tags_key
    sets = written_sets(conn, settings)
    for row in labelled_files(conn, target, head.id if head else None, measured=adds, sets=sets):
        if row["reason"] is not None:  # a readable file's reason says why no genre is written
            continue
        label = _label(row, threshold)
        last = None if explicit or row["write_state"] is None else row
        stat = Stat(row["dev"], row["ino"], row["size"], row["mtime_ns"])
        is_held = last is not None and held_back(last, stat, label)
        found = _tags(settings, row)
        edit = edit_for(settings, head, found, label) if label and not is_held else None
        add: dict[str, str | None] = {}
        if not is_held:
            add |= to_add(settings, found, row["tempo_bpm"], row["key_name"])
        add |= set_edits(conn, row["id"], sets, found, last, stat).texts
        if edit is not None or add:
            yield {
                "path": row["path_text"],
                "before": list(found.genres),
                "after": list(edit.genres if edit else found.genres),
                "confidence": round(label.confidence, 4) if edit and label else None,
                **({"adds": add} if add else {}),
            }


def _tags(settings: Settings, row: Row) -> Tags:
    """The tags of a file as the library knows them; genres that are not ours stood there before."""
    genres = tuple(row["tag_genre"].split("; ")) if row["tag_genre"] else ()
    ours = parse_ours(row["indexer_genre"] or "")
    ours_text = settings.text_for(ours.label).casefold() if ours else None
    return Tags(
        genres=genres,
        ours=ours,
        original_genres=tuple(g for g in genres if g.casefold() != ours_text),
        filled=tuple(name for name, value in ((BPM, row["tag_bpm"]), (KEY, row["tag_key"])) if value),
        added=row["indexer_added"],
        set_fields=json.loads(row["set_fields"] or "{}"),
    )


def _label(row: Row, threshold: float) -> Label | None:
    """A person's label, else what the head decides at this threshold, which need not be the stored one."""
    if row["corrected"] is not None:
        return Label.by_person(row["corrected"], row["corrected_at"])
    if row["predicted"] is not None and is_decided(row["confidence"], threshold, row["undecided_reason"]):
        return Label(row["predicted"], row["confidence"])
    return None
