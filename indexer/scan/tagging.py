"""The stage *write_genre*: the genre and, where they are wanted, tempo, key and label sets in the file's own tag."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from indexer.errors import READ_ONLY, DeferredError, FileError, ReadOnlyError, WriteRefusedError
from indexer.files.children.worker import Worker
from indexer.files.tags.blocks.blocks import BPM, KEY
from indexer.files.tags.copies import read_only, remove_copies
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.read import Tags
from indexer.files.tags.write import Prepared, discard, edit_to_json
from indexer.library.set_fields import concerns
from indexer.library.sqlite import Row
from indexer.scan.journal import commit_write
from indexer.scan.policy import Label, edit_for, held_back, to_add
from indexer.scan.set_fields import set_edits
from indexer.scan.work import NO_GENRE, FileFailedError, KnownFile, Run, Stage, Wait


def write_genre(run: Run, file: KnownFile, label: Label | None) -> Stage[None]:
    """Write into the file's tags: the genre, by a person's correction, else by the head; what is added beside it."""
    if run.tag_policy is None or (file.row.tag_policy == run.tag_policy and not run.explicit_tags):
        return
    said = run.store.said_so_far(file.recording_id)
    correction = run.store.correction(file.recording_id)
    if correction is not None:
        label = Label.by_person(correction["genre"], correction["corrected_at"])
    adds = run.settings.write_tags_bpm or run.settings.write_tags_key
    if label is None and not adds and not concerns(run.store.connection, file.row.id, run.written_sets):
        return
    last = None if run.explicit_tags else run.store.last_write(file.row.id)
    if last is not None and _still_read_only(file, last):
        run.counts.not_written += 1
        return
    if file.tags is None:
        done = yield Wait(partial(run.readers.submit, partial(Worker.call, op="read_tags", path=file.row.path)))
        try:
            file.tags = Tags.from_json(done.result()["tags"])
        except FileError as e:
            raise FileFailedError(e.reason) from e
    write = _to_write(run, file, file.tags, label, last)
    if write.edit is None and not write.add:
        run.store.settle_tags(file.row.id, run.tag_policy, said)
    else:
        yield from _write(run, file, write, partial(run.store.settle_tags, file.row.id, run.tag_policy, said))


@dataclass(frozen=True, slots=True)
class _ToWrite:
    """What is to be written into the tags of a file."""

    edit: GenreEdit | None
    add: dict[str, str | None]  # as files/tags/added.py has it
    said: list[str]  # the fields of label sets with a person's word
    still_undone: bool  # an undo holds back all but a person's word in a set

    def __str__(self) -> str:
        if self.edit:
            return "genre"
        return "tempo and key" if self.add.keys() & {BPM, KEY} else " and ".join(self.add)


def _to_write(run: Run, file: KnownFile, found: Tags, label: Label | None, last: Row | None) -> _ToWrite:
    """What the settings, the heads and a person want in a file with these tags, but for what ``last`` holds back."""
    head = run.model.head if run.model else None
    is_held = last is not None and held_back(last, file.row.stat, label)
    edit = edit_for(run.settings, head, found, label) if label and not is_held else None
    measured = None if is_held else run.store.measured(file.recording_id, head.id if head else None)
    add = to_add(run.settings, found, measured["tempo_bpm"], measured["key_name"]) if measured else {}
    of_sets = set_edits(run.store.connection, file.row.id, run.written_sets, found, last, file.row.stat)
    still_undone = is_held and last is not None and last["action"] == "undo"
    return _ToWrite(edit, {**add, **of_sets.texts}, of_sets.said, still_undone)


def _still_read_only(file: KnownFile, last: Row) -> bool:
    """Whether an earlier run said that the file cannot be written, and that has not changed."""
    if last["state"] != "refused" or not last["reason"].startswith(READ_ONLY):
        return False
    with suppress(OSError):
        return read_only(file.row.path) is not None
    return False


def _write(run: Run, file: KnownFile, write: _ToWrite, settle: Callable[[], None]) -> Stage[None]:
    """Have the edited copy prepared and put it in the file's place, unless the run is stopped before."""
    if file.row.reason is not None:
        why = WriteRefusedError(file.row.path, file.row.reason.removesuffix(f"; {NO_GENRE}"))
        _refuse(run, file, settle, why, what=str(write))
        return
    edit = write.edit
    prepare = partial(
        Worker.call,
        op="prepare_write",
        path=file.row.path,
        container=file.row.container,
        edit=edit_to_json(edit) if edit else None,
        add=write.add,
        said=write.said,
        preserve_mtime=run.settings.preserve_mtime,
    )
    done = yield Wait(partial(run.readers.submit, prepare), alone=True)
    try:
        prepared = Prepared.from_json(done.result(), os.fsdecode(file.row.path))
        if run.stopped():
            discard(prepared)
            return
        standing = prepared.after_tags.ours.to_text() if prepared.after_tags.ours else None
        ours = edit.describe() if edit else standing
        commit_write(
            run.store,
            prepared,
            file_id=file.row.id,
            run_id=run.run_id,
            ours=ours,
            still_undone=write.still_undone,
        )
    except DeferredError as e:
        run.counts.not_written += 1
        raise FileFailedError(f"{write} not written: {e.reason}") from e
    except FileError as e:
        _refuse(run, file, settle, e, what=str(write))
        return
    settle()
    run.counts.tags_written += 1
    run.counts.genres_written += edit is not None
    file.outcome += ", tag written"


def _refuse(run: Run, file: KnownFile, settle: Callable[[], None], error: FileError, *, what: str) -> None:
    """Store that the tag is not written until the file or the settings change, or `tags apply` asks for it.

    What cannot be written now (read-only) stays to be done: the next scan tries again, and does not say so again.
    """
    with suppress(OSError):
        remove_copies(file.row.path)  # left by a reader that was killed
    with run.store.transaction():
        run.store.refuse_write(
            file_id=file.row.id,
            run_id=run.run_id,
            path=file.row.path,
            action="write",
            stat=file.row.stat,
            reason=error.reason,
        )
        if not isinstance(error, ReadOnlyError):
            settle()
    if isinstance(error, ReadOnlyError):
        run.counts.not_written += 1
    else:
        run.counts.tags_refused += 1
    if not file.reported:
        run.listener.problem(os.fsdecode(file.row.path), f"{what} not written: {error.reason}")
