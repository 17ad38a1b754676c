"""Commands about the genres that we write into files: history, undo, apply."""

import sys
from pathlib import Path

import click

from indexer.cli import text
from indexer.cli.options import PATH, common, json_option
from indexer.cli.output import keep_playlists_true, note, show
from indexer.cli.scan import run_scan
from indexer.config import Settings


@click.group()
def tags() -> None:
    """Show, undo and apply the genres that are written into files."""


@tags.command("history")
@click.argument("file", type=PATH)
@json_option
@common
def tags_history(settings: Settings, file: Path, as_json: bool) -> None:
    """List every write to FILE, the oldest first."""
    from indexer.library.summary import history

    rows = history(settings.db, file)
    show(rows, text.history_text, as_json=as_json)


@tags.command("undo")
@click.argument("files", nargs=-1, type=PATH)
@click.option("--run", "run_id", type=int, help="Everything that one scan wrote.")
@click.option(
    "--since", metavar="TIME", help="Everything written since a time, such as 2026-11-22 or 2026-11-22T10:00Z."
)
@click.option("--all", "everything", is_flag=True, help="Everything that is still in place; asks on a terminal.")
@click.option("--corrections", is_flag=True, help="With --all: also the genres that you gave yourself.")
@click.option("-n", "--dry-run", is_flag=True, help="Only list the files; not for FILES.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-f", "--force", is_flag=True, help="Also where the genre was changed since.")
@json_option
@common
def tags_undo(
    settings: Settings,
    files: tuple[Path, ...],
    run_id: int | None,
    since: str | None,
    everything: bool,
    corrections: bool,
    dry_run: bool,
    yes: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Restore the former genre of FILES and remove our fields. Works with or without a library."""
    from indexer.scan.undo import to_undo, undo_files

    if sum((bool(files), run_id is not None, since is not None, everything)) != 1:
        raise click.UsageError("name files, or one of --run, --since and --all")
    asks = everything and not yes and sys.stdin.isatty()
    if not files and (dry_run or asks):
        found = to_undo(settings, run_id=run_id, since=since, corrections=corrections or not everything)
        if dry_run:
            show({"dry_run": True, **found}, text.undo_plan_text, as_json=as_json)
            return
        if not click.confirm(text.undo_question(found), err=True):
            note("nothing was undone")
            return
    done = undo_files(
        settings, files, run_id=run_id, since=since, force=force, corrections=corrections or not everything
    )
    keep_playlists_true(settings)
    for path, reason in done["refused"]:
        note(f"{path}: {reason}")
    show(done, text.undo_text, as_json=as_json)
    sys.exit(1 if done["refused"] else 0)


@tags.command("apply")
@click.argument("paths", nargs=-1, type=PATH)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be written; change nothing.")
@json_option
@common
def tags_apply(settings: Settings, verbosity: int, paths: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
    """Write the genres that are decided and not yet in the files, also where they were undone before."""
    from indexer.scan.preview import preview

    if dry_run:
        found = preview(settings, paths, explicit_tags=True)
        show(found, text.preview_text, as_json=as_json)
        return
    run_scan(settings, paths, verbosity=verbosity, as_json=as_json, explicit_tags=True)
