"""Writes a tag atomically: copies the file, edits and verifies the copy, announces, renames, confirms.

``prepare`` runs in a reader process and never touches the original; ``commit`` renames the copy and keeps the journal
through callbacks; ``settle`` finds out after a crash what became of a write. Never imports the store.
"""

import errno
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from indexer.errors import DeferredError, IndexerError, WriteRefusedError
from indexer.files.audio.identity import Stat, fingerprint, sniff
from indexer.files.links import folder_of, listable
from indexer.files.open_files import lease_is_refused
from indexer.files.swap import exchange
from indexer.files.tags.added import (
    Additions,
    add_fields,
    is_recorded_first,
    parse_added,
    remove_added,
    standing,
    touched,
)
from indexer.files.tags.blocks.blocks import BPM, KEY, is_set_field
from indexer.files.tags.copies import (
    COPY_CHANGED,
    check_replaceable,
    check_space,
    copies_in,
    copy_file,
    finish,
    plain_errors,
    remove_copies_in,
    stat_now,
    temp_path_of,
)
from indexer.files.tags.genre import (
    GenreEdit,
    changed_fields,
    other_fields,
    refuse_damaged,
    refuse_other_genre,
    restore_genre,
    set_genre,
    standing_genres,
    tag_bytes,
)
from indexer.files.tags.read import Tags, clean, read_tags

__all__ = ["GenreEdit", "Prepared", "commit", "discard", "edit_from_json", "edit_to_json", "prepare", "settle"]

CHANGED = "changed while its tag was written"
_CANNOT_SYNC = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS)


def edit_to_json(edit: GenreEdit) -> dict[str, Any]:
    """Plain values for another process."""
    return asdict(edit)


def edit_from_json(data: dict[str, Any]) -> GenreEdit:
    """The inverse of ``edit_to_json``."""
    return GenreEdit(**{**data, "genres": tuple(data["genres"])})


@dataclass(frozen=True, slots=True)
class Prepared:
    """A verified copy ready to replace the file. ``after`` survives the rename and so identifies our own write."""

    path: str
    temp_path: str
    before: Stat
    before_ctime_ns: int  # also shows changed permissions, links and attributes, and a reset mtime
    after: Stat
    before_genres: tuple[str, ...]
    after_genres: tuple[str, ...]
    after_tags: Tags  # as the copy holds them
    evidence: dict[str, str]  # digests of what was compared

    def to_json(self) -> dict[str, Any]:
        """Plain values for another process (names may hold surrogate escapes)."""
        return asdict(self) | {"path": Path(self.path).name, "temp_path": Path(self.temp_path).name}

    @classmethod
    def from_json(cls, data: dict[str, Any], path: str) -> "Prepared":
        """The inverse of ``to_json``, whose values hold names only: a reader works inside the folder of ``path``."""
        return cls(
            path,
            str(Path(path).with_name(data["temp_path"])),
            Stat(**data["before"]),
            data["before_ctime_ns"],
            Stat(**data["after"]),
            tuple(data["before_genres"]),
            tuple(data["after_genres"]),
            Tags.from_json(data["after_tags"]),
            dict(data["evidence"]),
        )


def prepare(
    path: str | bytes, container: str, edit: GenreEdit | None, *, add: Additions | None = None,
    said: Collection[str] = (), preserve_mtime: bool = False, heartbeat: Callable[[], None] = lambda: None,
) -> Prepared:  # fmt: skip
    """Make, edit and verify a copy beside the file; without edit and add, it gets back what stood there before us.

    ``add``: fields of files/tags/added.py, which must be empty or ours; ``said``: those with a person's word.

    ``heartbeat`` is called every few MB. Raises WriteRefusedError (damaged, linked or read-only), UnsupportedError,
    ReadError or DeferredError (disk full, or the file changed meanwhile); the copy is removed then. The file itself is
    never touched.
    """
    name = os.fsdecode(path)
    with plain_errors(name):
        before, ctime_ns = check_replaceable(name)
        refuse_damaged(name, container)
        if edit is not None:
            refuse_other_genre(name, container)
        old_tags = read_tags(name, container)
        if old_tags.unread:
            raise WriteRefusedError(name, old_tags.unread)
        if add and (full := standing(name, container) & add.keys()):
            raise WriteRefusedError(name, f"its field {min(full)} is not empty")
        allowed = frozenset() if edit and not add else touched(name, container, add)
        if edit and not allowed:
            add = None  # RIFF INFO has no place for it, and takes the genre all the same
        old_fields = other_fields(name, container, allowed)
        tag_room = tag_bytes(name, container)
        with Path(name).open("rb") as file:
            if sniff(file) != container:
                raise DeferredError(name, f"changed while it was read: it is no {container} file any more")
            found = fingerprint(file, name, heartbeat=heartbeat)
        if found.truncated:
            raise WriteRefusedError(name, found.truncated)
        identity = found.audio_sha256
        temp = temp_path_of(name)
        check_space(name, before.size)
        Path(temp).unlink(missing_ok=True)  # left by an earlier attempt of this process
        try:
            made = copy_file(name, temp, heartbeat)
            _edit(temp, container, edit, add, said, old_tags)
            new_tags, new_fields = _verified(name, temp, container, edit, add, old_tags, old_fields, allowed)
            with Path(temp).open("rb") as file:
                if fingerprint(file, temp, heartbeat=heartbeat).audio_sha256 != identity:
                    raise WriteRefusedError(name, "the edited copy would not hold the same audio")
            if stat_now(name) != (before, ctime_ns):
                raise DeferredError(name, "changed while its copy was edited")
            after = finish(name, temp, made, preserve_mtime=preserve_mtime)
            if before.size - after.size > tag_room:
                raise WriteRefusedError(name, "the edited copy would be shorter than the tag can explain")
        except BaseException:
            Path(temp).unlink(missing_ok=True)
            raise
    evidence = {
        "audio_sha256": identity,
        "other_fields_sha256": sha256(repr(sorted(new_fields.items())).encode()).hexdigest(),
        "fields_compared": str(len(new_fields)),
    }
    return Prepared(name, temp, before, ctime_ns, after, old_tags.genres, new_tags.genres, new_tags, evidence)


def commit(
    prepared: Prepared,
    *,
    intend: Callable[[Prepared], int],
    done: Callable[[int], None],
    drop: Callable[[int, str], None],
) -> bool:
    """Announce the write, check that the file is unchanged, rename the copy over it, confirm; returns True.

    What is changed between the check and the rename is noticed where the two can be exchanged: then what came out is
    looked at, and put back.

    The callbacks keep the journal: ``intend`` returns the number of the write, which ``done`` or ``drop`` (with the
    reason) settles. Raises DeferredError (file changed, open elsewhere, disk full) or WriteRefusedError (read-only);
    the copy is removed then.
    """
    try:
        write_id = intend(prepared)
    except BaseException:
        discard(prepared)
        raise
    try:
        with plain_errors(prepared.path), folder_of(prepared.path) as (folder, name):
            temp = os.fsencode(Path(prepared.temp_path).name)
            _check_unchanged(prepared, folder, name, temp)
            if exchange(temp, name, folder):
                _keep_or_put_back(prepared, folder, name, temp)
            else:
                os.replace(temp, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException as error:
        discard(prepared)
        if isinstance(error, IndexerError):
            drop(write_id, str(getattr(error, "reason", error)))
        raise
    # If this fails, the next start settles the open intent.
    with (
        plain_errors(prepared.path, "its new tag may not be on the disk yet"),
        folder_of(prepared.path) as (folder, _name),
    ):
        _sync(folder)
    done(write_id)
    return True


def discard(prepared: Prepared) -> None:
    """Remove a copy that will not be used, unless the file itself has its name since they were exchanged."""
    with suppress(OSError), folder_of(prepared.temp_path) as (folder, temp):
        found = _stat_in(folder, temp)
        if found and found.ino == prepared.after.ino:
            os.unlink(temp, dir_fd=folder)


def settle(path: str | bytes, before: Stat, after: Stat) -> Literal["done", "dropped", "superseded"] | None:
    """Find out what became of an announced write after a crash, and remove its copy.

    Returns done, dropped, or superseded (another program changed the file); None if that is not known yet, because the
    drive is missing or cannot make the rename durable.
    """
    try:
        with folder_of(path) as (folder, name):
            now = _stat_in(folder, name)
            if now is None and Stat.of(folder).dev != before.dev:
                return None  # an empty mount point: the drive is missing
            if now and _same_file(now, after):
                if _put_changed_back(folder, name, before):
                    now = None
                else:
                    _sync(folder)
            remove_copies_in(folder, name)
    except OSError:
        return None
    if now and _same_file(now, after):
        return "done"
    return "dropped" if now and _same_file(now, before) else "superseded"


def _put_changed_back(folder: int, name: bytes, before: Stat) -> bool:
    """Whether a crash came between an exchange and the look at what came out, which was changed; puts it back."""
    for copy in copies_in(folder, name):
        found = _stat_in(folder, copy)
        if found and found.ino == before.ino and not _same_file(found, before):
            return exchange(copy, name, folder)
    return False


def _stat_in(folder: int, name: bytes) -> Stat | None:
    """The Stat of what has this name in an open folder; None where nothing has. Links are not followed."""
    try:
        return Stat.from_result(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _same_file(now: Stat, then: Stat) -> bool:
    """Whether both are equal, ignoring the device number, which a restart or a new mount may change."""
    return (now.ino, now.size, now.mtime_ns) == (then.ino, then.size, then.mtime_ns)


def _edit(
    temp: str, container: str, edit: GenreEdit | None, add: Additions | None, said: Collection[str], old_tags: Tags
) -> None:
    """Write the genre and what is added; without both, give back what stood there before us."""
    if edit is not None:
        set_genre(temp, container, edit)
    if add:
        add_fields(temp, container, add, said)
    if edit is None and not add:
        _restore(temp, container, old_tags)


def _restore(temp: str, container: str, old_tags: Tags) -> None:
    """Take away what we wrote, in the opposite order: each record tells how the tag was before its write."""
    genre_first = is_recorded_first(old_tags.added)
    if not genre_first:
        remove_added(temp, container)
    if old_tags.ours is not None or old_tags.original_genres is not None or old_tags.added is None:
        restore_genre(temp, container)
    if genre_first:
        remove_added(temp, container)


def _verified(
    name: str,
    temp: str,
    container: str,
    edit: GenreEdit | None,
    add: Additions | None,
    old_tags: Tags,
    old_fields: dict[str, str],
    allowed: Collection[str],
) -> tuple[Tags, dict[str, str]]:
    """The tags and other fields of the edited copy. Raises WriteRefusedError where more than ``allowed`` changed."""
    new_tags, new_fields = read_tags(temp, container), other_fields(temp, container, allowed)
    if changed := changed_fields(old_fields, new_fields):
        raise WriteRefusedError(name, f"other tags would change: {clean(', '.join(changed), 200)}")
    if (edit or add) and (otherwise := _read_otherwise(old_tags, new_tags, add or {})):
        raise WriteRefusedError(name, f"other tags would read differently: {', '.join(otherwise)}")
    if add and not _is_added(add, new_tags):
        raise WriteRefusedError(name, "what is added does not read back from the copy")
    if edit:
        reads_back = _reads_back(edit, new_tags)
    elif add or old_tags.original_genres is None:  # the genre is not ours to change
        reads_back = new_tags.genres == old_tags.genres and new_tags.ours == old_tags.ours
    else:
        reads_back = _is_restored(old_tags, new_tags, temp, container)
    if not reads_back or (new_tags.added is not None and not edit and not add):
        raise WriteRefusedError(name, "the genre does not read back from the copy")
    return new_tags, new_fields


def _reads_back(edit: GenreEdit, new: Tags) -> bool:
    return new.genres == tuple(map(clean, edit.genres)) and new.ours is not None and new.original_genres is not None


def _is_added(add: Additions, new: Tags) -> bool:
    record = (parse_added(new.added or "") or {}).get("added", {})
    tempo = add.get(BPM)
    return (
        all((name in record) == (text is not None) for name, text in add.items())
        and (tempo is None or (new.bpm is not None and abs(new.bpm - float(tempo)) <= 0.5))  # MP4: a whole one
        and add.get(KEY) in (None, new.musical_key)
        and all(new.set_fields.get(name) == text for name, text in add.items() if is_set_field(name))
    )


def _read_otherwise(old: Tags, new: Tags, add: Additions) -> list[str]:
    """The fields but the genre, what is added and ours that read differently, though their bytes are the same.

    mutagen guesses how the sizes in some damaged ID3v2.4 tags are meant, by all frames together.
    """
    ours = {"genres", "ours", "original_genres", "added", "filled", "set_fields"}
    ours |= {name for field, name in ((BPM, "bpm"), (KEY, "musical_key")) if field in add}
    changed = [f.name for f in fields(Tags) if f.name not in ours and getattr(old, f.name) != getattr(new, f.name)]
    sets = (old.set_fields.keys() | new.set_fields.keys()) - add.keys()
    return changed + sorted(name for name in sets if old.set_fields.get(name) != new.set_fields.get(name))


def _is_restored(old: Tags, new: Tags, temp: str, container: str) -> bool:
    """Whether our fields are gone and the genre is the recorded one, as read or as one of the tags holds it."""
    found = {tuple(filter(None, map(clean, values))) for values in standing_genres(temp, container).values()}
    return new.ours is None and new.original_genres is None and old.original_genres in {new.genres, *found}


# --- the rename ------------------------------------------------------------


def _check_unchanged(prepared: Prepared, folder: int, name: bytes, temp: bytes) -> None:
    copy = os.stat(temp, dir_fd=folder, follow_symlinks=False)
    if Stat.from_result(copy) != prepared.after or copy.st_nlink != 1:  # with that inode it is the file that we made
        raise DeferredError(prepared.path, COPY_CHANGED)
    if _is_open_for_writing(name, temp, folder):
        raise DeferredError(prepared.path, "another program has it open for writing")
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if (Stat.from_result(found), found.st_ctime_ns) != (prepared.before, prepared.before_ctime_ns):
        raise DeferredError(prepared.path, CHANGED)


def _is_open_for_writing(original: bytes, copy: bytes, folder: int) -> bool:
    # NFS refuses a lease on any file without a delegation: if it also refuses one on the copy, which nobody has open,
    # the refusal means nothing.
    return bool(lease_is_refused(original, folder)) and not lease_is_refused(copy, folder)


def _keep_or_put_back(prepared: Prepared, folder: int, name: bytes, temp: bytes) -> None:
    """Look at what an exchange brought out: remove the original that was checked; put back whatever else it is.

    Nobody can open the original by its name now, so a program that changed it, or is about to, opened it before. Raises
    DeferredError where it was put back.
    """
    is_open = _is_open_for_writing(temp, name, folder)  # first: who has closed it by now has changed it by now
    out = os.stat(temp, dir_fd=folder, follow_symlinks=False)
    if not is_open and Stat.from_result(out) == prepared.before and out.st_nlink == 1:
        os.unlink(temp, dir_fd=folder)
        return
    placed = _stat_in(folder, name)
    if placed and placed.ino == prepared.after.ino:
        exchange(temp, name, folder)
    else:  # replaced or deleted since: that came last and stands
        os.unlink(temp, dir_fd=folder)
    raise DeferredError(prepared.path, CHANGED)


def _sync(folder: int) -> None:
    """Make the rename durable. Folders that cannot be opened or synced are passed over; other OSErrors are raised."""
    try:
        with listable(folder) as handle:
            os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
