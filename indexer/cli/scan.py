"""Commands that listen to music: scan, watch, classify, relabel, correct."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexer import wording
from indexer.cli import text
from indexer.cli.options import PATH, clustered, common, json_option, set_option
from indexer.cli.output import keep_playlists_true, note, say, show
from indexer.config import Settings

if TYPE_CHECKING:
    from indexer.scan.outcome import ScanResult


@click.command()
@click.argument("paths", nargs=-1, type=PATH)
@click.option("-n", "--dry-run", is_flag=True, help="Say what a scan would find; change nothing.")
@click.option("--no-tags", is_flag=True, help="Write no genre into any file.")
@click.option("-f", "--force", is_flag=True, help="Read and embed again what is known and unchanged.")
@click.option("--jobs", type=int, help="Child processes that read and decode files.")
@clustered
@json_option
@common
def scan(
    settings: Settings,
    verbosity: int,
    paths: tuple[Path, ...],
    dry_run: bool,
    no_tags: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Index, embed, classify and tag folders or files, once.

    Without PATHS: the roots of the settings file, else every folder that was scanned before. What is known and
    unchanged is not opened again. Ctrl-C keeps what is done; the next scan goes on from there.
    """
    from indexer.scan.preview import preview

    if dry_run:
        found = preview(settings, paths)
        show(found, text.preview_text, as_json=as_json)
        return
    run_scan(settings, paths, verbosity=verbosity, as_json=as_json, write_tags=not no_tags, force=force, analyse=True)


def run_scan(settings: Settings, paths: tuple[Path, ...], *, verbosity: int, as_json: bool, **how: bool) -> None:
    """Scan with progress, Ctrl-C and summary; leaves with the scan's exit code."""
    result = scanned(settings, paths, verbosity=verbosity, **how)
    show(result.to_json(), lambda found: text.scan_text(found, verbose=verbosity > 0), as_json=as_json)
    sys.exit(result.exit_code)


def scanned(
    settings: Settings, paths: tuple[Path, ...], *, verbosity: int, says_why: bool = True, **how: bool
) -> "ScanResult":
    """Scan with progress, Ctrl-C and notes; returns what the summary is made of.

    says_why: say why there are no genres, where there are none.
    """
    from indexer.cli.progress import Progress
    from indexer.models.choice import Chosen, without_genres
    from indexer.scan.run import Scan

    progress = Progress(verbosity)
    running = Scan(settings, progress)
    progress.tail = lambda: text.workers_text(running.workers)

    def begin(_total: int, chosen: Chosen | None) -> None:
        reason = without_genres(chosen)
        if says_why and verbosity >= 0 and reason:
            progress.line(reason)

    def interrupt(signum: int, _frame: Any) -> None:
        progress.line("stopping: finishing what is in work (again to stop at once)")
        signal.signal(signum, signal.default_int_handler)
        running.stop()

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        result = running.run(paths, on_start=begin, **how)
    finally:
        progress.clear()
        for signum, handler in before.items():
            signal.signal(signum, handler)
    for line in result.notes:
        note(f"indexer: {line}")
    return result


def apply_head(
    settings: Settings, *, verbosity: int, as_json: bool, of_set: bool = False
) -> tuple[dict[str, Any], int]:
    """Classify everything with the heads in use, then write what is decided: ({relabel, scan}, exit code).

    ``scan`` is None where nothing is to be written. ``of_set``: only a label set has a new head.
    """
    try:
        found = relabelled(settings, verbosity=verbosity, as_json=as_json)
        no_genre = of_set or settings.write_tags == "off" or found["undecided"] == found["classified"]
        if no_genre and not found["sets_not_written"]:
            return {"relabel": found, "scan": None}, int(bool(found["damaged"]))
        result = scanned(settings, (), verbosity=verbosity)
    except KeyboardInterrupt:
        note(text.APPLY_GOES_ON)
        raise
    if not as_json:
        show(result.to_json(), lambda found: text.scan_text(found, verbose=verbosity > 0), as_json=False)
    if result.interrupted:
        note(text.APPLY_GOES_ON)
    return {"relabel": found, "scan": result.to_json()}, result.exit_code or int(bool(found["damaged"]))


def relabelled(settings: Settings, *, verbosity: int, as_json: bool) -> dict[str, Any]:
    """Classify all cached embeddings with the head in use; the summary is printed here unless it goes into JSON."""
    from indexer.cli.progress import Progress
    from indexer.scan.relabel import relabel as classify_all

    progress = Progress(verbosity)
    try:
        found = classify_all(settings, progress.step)
    finally:
        progress.clear()
    if not as_json:
        show(found, text.relabel_text, as_json=False)
    if found["damaged"]:
        note(
            f"indexer: {wording.count(found['damaged'], 'embedding')} could not be used (damaged); `indexer scan"
            " --force` makes them again"
        )
    return found


@click.command()
@click.argument("paths", nargs=-1, type=PATH)
@click.option("--jobs", type=int, help="Child processes that read and decode files.")
@clustered
@common
def watch(settings: Settings, verbosity: int, paths: tuple[Path, ...], reload: Callable[[], Settings]) -> None:
    """Do what `scan` does whenever something changes, until it is stopped (Ctrl-C, SIGTERM).

    SIGHUP reads the settings again.

    Without PATHS: the roots of the settings file, else every folder that was scanned before.
    """
    from indexer.watch.daemon import Daemon, speaker

    if settings.cluster is not None:
        from indexer.cluster.executor import refuse_wrong_settings

        refuse_wrong_settings(settings, paths)  # once at the start, not with every scan
    sys.exit(Daemon(settings, paths, speaker(verbosity), reload).run())


@click.command()
@click.argument("files", nargs=-1, type=PATH, required=True)
@json_option
@common
def classify(settings: Settings, files: tuple[Path, ...], as_json: bool) -> None:
    """Show genre and confidence of FILES and of all in folders; nothing is stored and no tag is touched."""
    from indexer.listen.classify import classify as look

    results = []
    for result in look(settings, files):
        results.append(result)
        if "error" in result:
            note(f"{result['path']}: {result['error']}")
        elif not as_json:
            show(result, text.classify_text, as_json=False)
    if as_json:
        show(results, str, as_json=True)
    sys.exit(1 if any("error" in r for r in results) else 0)


@click.command()
@json_option
@common
def relabel(settings: Settings, verbosity: int, as_json: bool) -> None:
    """Apply the head in use to all cached embeddings; no file is opened."""
    found = relabelled(settings, verbosity=verbosity, as_json=as_json)
    if as_json:
        show(found, str, as_json=True)
    elif found["undecided"] < found["classified"]:
        say(text.next_after_relabel(found["not_written"]))
    sys.exit(1 if found["damaged"] else 0)


@click.command()
@click.argument("files", nargs=-1, type=PATH, required=True)
@click.argument("genre")
@click.option("--new", is_flag=True, help="Allow a genre that the library does not know yet.")
@set_option
@json_option
@common
def correct(
    settings: Settings, files: tuple[Path, ...], genre: str, new: bool, label_set: str | None, as_json: bool
) -> None:
    """Store that FILES, or all in a folder, are of GENRE, and write it into their tags; `train` learns from it."""
    from indexer.upkeep.correct import correct as say
    from indexer.upkeep.correct import correct_in_set

    if label_set is not None:
        found = correct_in_set(settings, files, label_set, genre, new=new)
    else:
        found = say(settings, files, genre, new=new)
    if found["tags"] != "written":  # else a scan wrote them
        keep_playlists_true(settings)
    show(found, text.correct_text if label_set is None else text.corrected_in_set_text, as_json=as_json)
    sys.exit(1 if any(f["reason"] for f in found["files"]) else 0)
