"""The stage *write_genre*: the genre, and a tempo and key where they are wanted, in the file's own tag."""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from indexer.errors import READ_ONLY, DeferredError, FileError, ReadOnlyError, WriteRefusedError
from indexer.files.children.worker import Worker
from indexer.files.tags.copies import read_only, remove_copies
from indexer.files.tags.genre import GenreEdit
from indexer.files.tags.read import Tags
from indexer.files.tags.write import Prepared, discard, edit_to_json
from indexer.scan.journal import commit_write
from indexer.scan.policy import Label, edit_for, held_back, to_add
from indexer.scan.work import NO_GENRE, FileFailedError, KnownFile, Run, Stage, Wait


def write_genre(run: Run, file: KnownFile, label: Label | None) -> Stage[None]:
    """Write the genre into the file's tag: a person's correction, else what the head decided."""
    correction = run.store.correction(file.recording_id)
    if correction is not None:
        label = Label.by_person(correction["genre"], correction["corrected_at"])
    is_settled = file.row.tag_policy == run.tag_policy and not run.explicit_tags
    adds = run.settings.write_tags_bpm or run.settings.write_tags_key
    if (label is None and not adds) or run.tag_policy is None or is_settled:
        return
    if not run.explicit_tags and _still_read_only(run, file):
        run.counts.not_written += 1
        return
    if file.tags is None:
        done = yield Wait(partial(run.readers.submit, partial(Worker.call, op="read_tags", path=file.row.path)))
        try:
            file.tags = Tags.from_json(done.result()["tags"])
        except FileError as e:
            raise FileFailedError(e.reason) from e
    head = run.model.head if run.model else None
    edit = edit_for(run.settings, head, file.tags, label) if label else None
    add: dict[str, str] = {}
    if adds and (row := run.store.measured(file.recording_id, head.id if head else None)) is not None:
        add = to_add(run.settings, file.tags, row["tempo_bpm"], row["key_name"])
    if (edit is None and not add) or _is_held_back(run, file, label):
        run.store.settle_tags(file.row.id, run.tag_policy)
    else:
        yield from _write(run, file, edit, add, run.tag_policy)


def _is_held_back(run: Run, file: KnownFile, label: Label | None) -> bool:
    last = None if run.explicit_tags else run.store.last_write(file.row.id)
    return last is not None and held_back(
        last["action"], last["state"], last["reason"], last["stat_before"], last["written_at"], file.row.stat, label
    )


def _still_read_only(run: Run, file: KnownFile) -> bool:
    """Whether an earlier run said that the file cannot be written, and that has not changed."""
    last = run.store.last_write(file.row.id)
    if last is None or last["state"] != "refused" or not last["reason"].startswith(READ_ONLY):
        return False
    with suppress(OSError):
        return read_only(file.row.path) is not None
    return False


def _write(run: Run, file: KnownFile, edit: GenreEdit | None, add: Mapping[str, str], tag_policy: str) -> Stage[None]:
    """Have the edited copy prepared and put it in the file's place, unless the run is stopped before."""
    if file.row.reason is not None:
        why = WriteRefusedError(file.row.path, file.row.reason.removesuffix(f"; {NO_GENRE}"))
        _refuse(run, file, tag_policy, why, what=_what(edit))
        return
    prepare = partial(
        Worker.call,
        op="prepare_write",
        path=file.row.path,
        container=file.row.container,
        edit=edit_to_json(edit) if edit else None,
        add=add,
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
        commit_write(run.store, prepared, file_id=file.row.id, run_id=run.run_id, ours=ours)
    except DeferredError as e:
        run.counts.not_written += 1
        raise FileFailedError(f"{_what(edit)} not written: {e.reason}") from e
    except FileError as e:
        _refuse(run, file, tag_policy, e, what=_what(edit))
        return
    run.store.settle_tags(file.row.id, tag_policy)
    run.counts.tags_written += 1
    run.counts.genres_written += edit is not None
    file.outcome += ", tag written"


def _what(edit: GenreEdit | None) -> str:
    return "genre" if edit else "tempo and key"


def _refuse(run: Run, file: KnownFile, tag_policy: str, error: FileError, *, what: str) -> None:
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
            run.store.settle_tags(file.row.id, tag_policy)
    if isinstance(error, ReadOnlyError):
        run.counts.not_written += 1
    else:
        run.counts.tags_refused += 1
    if not file.reported:
        run.listener.problem(os.fsdecode(file.row.path), f"{what} not written: {error.reason}")
