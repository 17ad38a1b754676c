"""Commands about the library as a whole: status, similar, doctor, prune, export, bench, serve, demo, cluster."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from indexer.cli import text
from indexer.cli.options import PATH, clustered, common, dj_map_option, json_option
from indexer.cli.output import keep_playlists_true, note, show
from indexer.config import Settings


@click.command()
@click.argument("file", type=PATH)
@click.option("-n", "--count", type=click.IntRange(1), default=10, show_default=True, help="How many to list.")
@click.option(
    "--mix",
    is_flag=True,
    help="Only tracks that mix well with it: same or neighbouring key, tempo within 6 % (or half, or double).",
)
@click.option("--m3u", type=PATH, help="Write them as a playlist (M3U8); '-' for stdout.")
@json_option
@common
def similar(settings: Settings, file: Path, count: int, mix: bool, m3u: Path | None, as_json: bool) -> None:
    """List the tracks of the library nearest to FILE by embedding; the library need not hold FILE."""
    from indexer.library.vectors.similar import NotHeldError, to_text
    from indexer.library.vectors.similar import similar as ask

    _check_m3u(m3u)
    try:
        found = ask(settings.db, file, count, mix=mix)
    except NotHeldError:
        if not file.is_file():
            raise
        from indexer.upkeep.similar_file import similar_file

        found = similar_file(settings, file, count, mix=mix)
    _write_m3u(m3u, found)
    if m3u is None or str(m3u) != "-":
        show(found, to_text, as_json=as_json)


def _check_m3u(m3u: Path | None) -> None:
    if m3u is not None and str(m3u) != "-" and m3u.suffix not in (".m3u", ".m3u8"):
        raise click.UsageError(f"--m3u: {m3u} must end in .m3u8 or .m3u")


def _write_m3u(m3u: Path | None, found: dict[str, Any]) -> None:
    """Write {tracks} as a playlist, where one is asked for; a file that is not ours is left alone."""
    from indexer.exchange.m3u import to_m3u, write_own

    if m3u is not None and str(m3u) == "-":
        with click.open_file("-", "wb") as out:
            out.write(to_m3u(found))
    elif m3u is not None:
        write_own(m3u, found)


@click.command()
@click.argument("text")
@click.option("-n", "--count", type=click.IntRange(1), default=10, show_default=True, help="How many to list.")
@click.option("--genre", help="Only tracks of this genre: a correction, the tag, or what the head decided.")
@click.option("--path", "below", type=PATH, help="Only tracks below this folder.")
@click.option("--m3u", type=PATH, help="Write them as a playlist (M3U8); '-' for stdout.")
@json_option
@common
def find(
    settings: Settings,
    verbosity: int,
    text: str,
    count: int,
    genre: str | None,
    below: Path | None,
    m3u: Path | None,
    as_json: bool,
) -> None:
    """List the tracks that sound most like TEXT, such as "melancholic dub techno with deep chords".

    It needs a model whose sound and text share a space, as M2D-CLAP's and LAION-CLAP's do. With --json it prints a list
    of tracks.
    """
    from indexer.library.vectors.similar import tracks_text
    from indexer.upkeep.find import find as ask

    _check_m3u(m3u)
    found = ask(settings, text, count, genre=genre, below=below, on_step=note if verbosity >= 0 else lambda _: None)
    _write_m3u(m3u, found)
    if m3u is None or str(m3u) != "-":
        show(found["tracks"], tracks_text, as_json=as_json)


@click.command()
@json_option
@common
def duplicates(settings: Settings, as_json: bool) -> None:
    """List files of the same sound, which of them to keep, and why. Nothing is deleted or written.

    They are copies of the same audio, and other encodings of a recording that its embedding and length find and its
    fingerprint confirms. A remix, another edit or mix is not the same.
    """
    from indexer.library.duplicates import duplicates as find

    show(find(settings.db), text.duplicates_text, as_json=as_json)


@click.command()
@click.argument("folder", type=PATH, default=Path("indexer-demo"))
@json_option
@common
def demo(settings: Settings, verbosity: int, folder: Path, as_json: bool) -> None:
    """Synthesise a small library in FOLDER (indexer-demo) and run the whole program on it."""
    from indexer.cli.progress import Progress
    from indexer.upkeep.demo import demo as run

    progress = Progress(verbosity)
    found = run(settings, folder.absolute(), progress, progress.line if verbosity >= 0 else lambda _: None)
    progress.clear()
    show(found, text.demo_text, as_json=as_json)
    sys.exit(1 if found["failed"] else 0)


@click.command()
@click.argument("paths", nargs=-1, type=PATH)
@click.option("-n", "--dry-run", is_flag=True, help="Only list what would be forgotten.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--embeddings", is_flag=True, help="Also embeddings of encoders that are not in use, and old heads' predictions."
)
@json_option
@common
def prune(
    settings: Settings, paths: tuple[Path, ...], dry_run: bool, yes: bool, embeddings: bool, as_json: bool
) -> None:
    """Forget missing files of online roots, or below PATHS: list them, ask, remove their rows. No file is touched."""
    from indexer.upkeep.prune import forget, plan

    found = {"forgotten": 0, **plan(settings.db, paths, embeddings=embeddings)}
    if not as_json:
        show(found, text.prune_text, as_json=False)
    if found["files"] or found["embeddings"] or found["predictions"]:
        if not dry_run and (yes or (sys.stdin.isatty() and click.confirm("Forget them?", err=True))):
            found |= forget(settings.db, paths, embeddings=embeddings)
        elif not dry_run and not yes:
            note("nothing was forgotten; --yes forgets without asking")
    show(found, lambda found: f"{found['forgotten']:,} files forgotten", as_json=as_json)


@click.command()
@click.argument("paths", nargs=-1, type=PATH, required=True)
@click.option("-n", "--dry-run", is_flag=True, help="Only list what would be forgotten.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@common
def forget(settings: Settings, paths: tuple[Path, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Take roots, folders or files out of the library: list them, ask, remove their rows. No file is touched."""
    from indexer.upkeep.forget import forget as remove
    from indexer.upkeep.forget import plan

    found = {"forgotten": 0, **plan(settings.db, paths)}
    if not as_json:
        show(found, text.forget_text, as_json=False)
    if not dry_run and (yes or (sys.stdin.isatty() and click.confirm("Forget them?", err=True))):
        found |= remove(settings.db, paths)
        keep_playlists_true(settings)
    elif not dry_run:
        note("nothing was forgotten; --yes forgets without asking")
    show(found, lambda found: f"{found['forgotten']:,} files forgotten", as_json=as_json)


@click.command()
@json_option
@common
def status(settings: Settings, as_json: bool) -> None:
    """Show what the library holds, and what the daemon is doing."""
    from indexer.library.summary import status as look
    from indexer.watch.status import read_status

    found = {**look(settings), "watch": read_status(settings.db)}
    show(found, text.status_text, as_json=as_json)


@click.command()
@click.argument("paths", nargs=-1, type=PATH)
@click.option(
    "--rebuild",
    is_flag=True,
    help="Make the library anew from what can be read of it; the damaged one is kept beside it.",
)
@json_option
@common
def doctor(settings: Settings, verbosity: int, paths: tuple[Path, ...], rebuild: bool, as_json: bool) -> None:
    """Show which genre each program sees in files, and what a write would refuse; without PATHS: check the library.

    For a folder: counts, then the files that have a finding. Everything is read and decoded once; nothing is written.
    """
    from indexer.cli.progress import Progress
    from indexer.upkeep.doctor import diagnose, exit_code, to_text
    from indexer.upkeep.rebuild import check
    from indexer.upkeep.rebuild import rebuild as rebuild_library

    if rebuild and paths:
        raise click.UsageError("--rebuild is about the library and takes no PATHS")
    if not paths:
        report = rebuild_library(settings) if rebuild else check(settings.db)
        show(report, text.rebuild_text if rebuild else text.check_text, as_json=as_json)
        sys.exit(1 if report.get("problems") else 0)
    progress = Progress(verbosity)
    try:
        found = diagnose(settings, paths, progress)
    finally:
        progress.clear()
    show(found, to_text, as_json=as_json)
    sys.exit(exit_code(found))


@click.command()
@click.argument("files", nargs=-1, type=PATH)
@click.option("--jobs", type=int, help="Child processes that read and decode files.")
@click.option("--labels", is_flag=True, help="Compare instead how precision and --units change labels and neighbours.")
@json_option
@common
def bench(settings: Settings, verbosity: int, files: tuple[Path, ...], labels: bool, as_json: bool) -> None:
    """Measure how fast this machine decodes and embeds FILES (or tracks of the library), and which step is slower.

    Also estimates how long the whole library takes. With --labels: whether int8, bf16 or fewer units would change the
    genres and similar tracks of a sample of your library; stores nothing.
    """
    from indexer.cli.progress import Progress
    from indexer.upkeep import bench as speed
    from indexer.upkeep import bench_labels as quality

    if not labels:
        show(speed.bench(settings, files), speed.to_text, as_json=as_json)
        return
    progress = Progress(verbosity)
    try:
        found = quality.bench_labels(settings, files, progress)
    finally:
        progress.clear()
    show(found, quality.to_text, as_json=as_json)


@click.command()
@click.option(
    "--parquet",
    type=PATH,
    metavar="DIR",
    help="Everything as Parquet: a new folder to write to, or an earlier export, which is replaced.",
)
@click.option("--rekordbox", type=PATH, metavar="FILE.xml", help="Tracks and playlists as rekordbox XML.")
@click.option("--m3u", type=PATH, metavar="DIR", help="The playlists as M3U8 files in a folder.")
@click.option("--serato", type=PATH, metavar="DIR", help="The playlists as new Serato crates in a folder.")
@click.option("--relative", is_flag=True, help="M3U8 with paths relative to DIR, in the place of absolute ones.")
@dj_map_option
@json_option
@common
def export(
    settings: Settings,
    verbosity: int,
    parquet: Path | None,
    rekordbox: Path | None,
    m3u: Path | None,
    serato: Path | None,
    relative: bool,
    as_json: bool,
) -> None:
    """Write the library for other programs: as Parquet, or its playlists for players and DJ programs.

    Parquet, for DuckDB, Spark, pandas or a vector database, holds recordings, files with their tags, embeddings,
    predictions and corrections. The playlists are one for each genre, the undecided tracks, and one for each saved
    question.

    A scan may go on meanwhile. Interrupted, it leaves an earlier export as it was. A file that indexer did not write,
    or that was changed since, is never replaced.
    """
    if not (parquet or rekordbox or m3u or serato):
        raise click.UsageError("say what to write: --parquet DIR, --rekordbox FILE.xml, --m3u DIR or --serato DIR")
    if rekordbox and rekordbox.suffix.lower() != ".xml":
        raise click.UsageError(f"--rekordbox: {rekordbox} must end in .xml")
    if relative and not m3u:
        raise click.UsageError("--relative is about --m3u DIR")
    found: dict[str, Any] = {}
    if parquet:
        from indexer.upkeep.export import export as write_parquet

        found |= _with_progress("exporting", verbosity, lambda progress: write_parquet(settings.db, parquet, progress))
        if not as_json:
            show(found, text.export_text, as_json=False)
    if rekordbox or m3u or serato:
        from indexer.exchange.export import export as write_playlists

        lists = _with_progress(
            "exporting playlists",
            verbosity,
            lambda progress: write_playlists(
                settings,
                to_rekordbox=rekordbox,
                to_m3u=m3u,
                to_serato=serato,
                relative=relative,
                progress=progress,
            ),
        )
        found |= lists
        if not as_json:
            show(lists, text.playlists_text, as_json=False)
    if as_json:
        show(found, str, as_json=True)
    for line in text.export_notes(found):
        note(f"indexer: {line}")
    sys.exit(1 if found.get("damaged") or found.get("problems") else 0)


def _with_progress(
    label: str, verbosity: int, work: Callable[[Callable[[int, int], None]], dict[str, Any]]
) -> dict[str, Any]:
    """Do the work with a bar on a terminal."""
    with click.progressbar(
        length=0, label=label, width=0, file=sys.stderr, hidden=verbosity < 0 or not sys.stderr.isatty()
    ) as bar:

        def progressed(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        return work(progressed)


@click.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--open", "open_browser", is_flag=True, help="Open a browser.")
@common
def serve(settings: Settings, open_browser: bool) -> None:
    """Show the library in Datasette."""
    from indexer.web.serve import serve as run

    run(
        settings,
        open_browser=open_browser,
        announce=lambda url: note(f"the library is at {url} (Ctrl-C ends)"),
    )


@click.group()
def cluster() -> None:
    """The Dask cluster that reads and embeds for a scan."""


@cluster.command("check")
@click.argument("paths", nargs=-1, type=PATH)
@clustered
@json_option
@common
def cluster_check(settings: Settings, paths: tuple[Path, ...], as_json: bool) -> None:
    """Ask every worker whether it agrees with a scan of PATHS (or the known folders), and show the reasons.

    It must have the same version, encoder and precision, and see the folders.
    """
    from indexer.cluster.check import check

    found = check(settings, paths)
    show(found, text.cluster_text, as_json=as_json)
    sys.exit(0 if found["agree"] == len(found["workers"]) else 1)
