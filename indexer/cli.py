"""The command line: parse, call one function, print.

No SQL, no mutagen, and torch only in the commands that embed: `indexer --help` and `indexer status` start in a blink.
"""

import functools
import inspect
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexer import __version__, texts, wording
from indexer.config import Settings, load_settings
from indexer.errors import ConfigError, IndexerError
from indexer.wording import escaped

if TYPE_CHECKING:
    from indexer.learn.dataset import LabelRequest

PATH = click.Path(path_type=Path)
COMMON = [
    click.option("--db", type=PATH, help="The library's database."),
    click.option("--config", type=PATH, help="Settings file to read instead of the usual one."),
    click.option("--encoder", metavar="NAME|PATH", help="Model to embed with: rhythm (built in), an installed name, or a checkpoint's path."),
    click.option("--head", metavar="NAME|PATH", help="Head to classify with: 'audioset', or a head file's path."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="Where the encoder runs."),
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "int8"]), help="Arithmetic of the encoder."),
    click.option("--units", metavar="N|all", help="Units of a recording that are embedded, evenly spread over it."),
    click.option("-v", "--verbose", is_flag=True, help="One line a file."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no notes, only the result."),
]


CLUSTER = [
    click.option("--cluster", metavar="tcp://HOST:PORT", help="Dask scheduler whose workers read and embed; see docs/cluster.md."),
    click.option("--map", "map", multiple=True, metavar="HERE=THERE", help="Folder here and the same folder as the workers see it; repeatable."),
    click.option("--worker-resources", multiple=True, metavar="NAME=N", help="What a worker must offer to embed, such as GPU=1; the others only read."),
    click.option("--tls-ca", type=PATH, help="Certificate of the authority that signed everybody's (tls://)."),
    click.option("--tls-cert", type=PATH, help="This machine's certificate."),
    click.option("--tls-key", type=PATH, help="Its key."),
]
FLAGS = ("jobs", "host", "port", "cluster", "tls_ca", "tls_cert", "tls_key")  # settings that some commands have a flag for


def clustered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a cluster."""
    return functools.reduce(lambda f, option: option(f), reversed(CLUSTER), function)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common options: it receives ``settings`` instead of them, and where it asks for that ``verbosity``, and
    ``reload``, which reads the settings again.
    """
    wants_verbosity, wants_reload = (name in inspect.signature(function).parameters for name in ("verbosity", "reload"))

    @functools.wraps(function)
    def with_settings(db: Path | None, config: Path | None, encoder: str | None, head: str | None, device: str | None,
                      precision: str | None, units: str | None, verbose: bool, quiet: bool, **arguments: Any) -> Any:
        from indexer.library.readonly import plain_errors

        flags: dict[str, Any] = {"db": db, "encoder": encoder, "head": head, "device": device, "precision": precision,
                                 "units": int(units) if units and units.isdecimal() else units}
        flags |= {key: arguments.pop(key) for key in FLAGS if key in arguments}
        flags |= {key: _pairs(arguments.pop(key), f"--{key.replace('_', '-')}") for key in ("map", "worker_resources") if key in arguments}
        if wants_verbosity:
            arguments["verbosity"] = int(verbose) - int(quiet)
        if wants_reload:
            arguments["reload"] = functools.partial(load_settings, config, flags)
        settings = load_settings(config, flags)
        with plain_errors(settings.db):  # whatever reads the library may find it damaged
            return function(settings=settings, **arguments)

    return functools.reduce(lambda f, option: option(f), reversed(COMMON), with_settings)


def _pairs(texts_given: tuple[str, ...], flag: str) -> dict[str, str] | None:
    from indexer.cluster.settings import pairs

    return pairs(texts_given, flag)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


class _Group(click.Group):
    """Turns our errors into one line on stderr and the exit code that they carry."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except IndexerError as e:
            click.echo(f"indexer: {escaped(str(e))}", err=True)
            ctx.exit(e.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("indexer: interrupted", err=True)
            ctx.exit(130)
        except BrokenPipeError:  # the reader of our output went away
            sys.stderr.close()
            ctx.exit(1)


@click.group(cls=_Group)
@click.version_option(__version__, prog_name="indexer")
def main() -> None:
    """Keep an electronic-music library labelled: embed, classify, tag, browse."""


@main.command()
@click.argument("paths", nargs=-1, type=PATH)
@click.option("-n", "--dry-run", is_flag=True, help="Say what a scan would find; change nothing.")
@click.option("--no-tags", is_flag=True, help="Write no genre into any file.")
@click.option("-f", "--force", is_flag=True, help="Read and embed again what is known and unchanged.")
@click.option("--jobs", type=int, help="Child processes that read and decode files.")
@clustered
@json_option
@common
def scan(settings: Settings, verbosity: int, paths: tuple[Path, ...], dry_run: bool, no_tags: bool, force: bool, as_json: bool) -> None:
    """Index, embed, classify and tag folders or files, once.

    Without PATHS: the roots of the settings file, else every folder that was scanned before. What is known and
    unchanged is not opened again. Ctrl-C keeps what is done; the next scan goes on from there.
    """
    from indexer.scan.preview import preview

    if dry_run:
        found = preview(settings, paths)
        click.echo(json.dumps(found) if as_json else texts.preview_text(found))
        return
    run_scan(settings, paths, verbosity=verbosity, as_json=as_json, write_tags=not no_tags, force=force)


def run_scan(settings: Settings, paths: tuple[Path, ...], *, verbosity: int, as_json: bool, **how: bool) -> None:
    """Scan with progress, Ctrl-C and summary; leaves with the scan's exit code."""
    from indexer.models.choice import Chosen, without_genres
    from indexer.progress import Progress
    from indexer.scan.run import Scan

    progress = Progress(verbosity)
    running = Scan(settings, progress)
    progress.tail = lambda: texts.crew_text(running.workers)

    def begin(total: int, chosen: Chosen | None) -> None:
        progress.begin(total)
        reason = without_genres(chosen)
        if verbosity >= 0 and reason:
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
    for note in result.notes:
        click.echo(f"indexer: {note}", err=True)
    click.echo(json.dumps(result.to_json()) if as_json else texts.scan_text(result.to_json()))
    sys.exit(result.exit_code)


@main.command()
@click.argument("paths", nargs=-1, type=PATH)
@click.option("--jobs", type=int, help="Child processes that read and decode files.")
@clustered
@common
def watch(settings: Settings, verbosity: int, paths: tuple[Path, ...], reload: Callable[[], Settings]) -> None:
    """Do what `scan` does whenever something changes, until it is stopped (Ctrl-C, SIGTERM); SIGHUP reads the settings again.

    Without PATHS: the roots of the settings file, else every folder that was scanned before.
    """
    from indexer.watch.daemon import Daemon, speaker

    if settings.cluster is not None:
        from indexer.cluster.executor import refuse_wrong_settings

        refuse_wrong_settings(settings, paths)  # now, and not with every scan
    sys.exit(Daemon(settings, paths, speaker(verbosity), reload).run())


@main.command()
@click.argument("files", nargs=-1, type=PATH, required=True)
@json_option
@common
def classify(settings: Settings, files: tuple[Path, ...], as_json: bool) -> None:
    """Genre and confidence of FILES; nothing is stored and no tag is touched."""
    from indexer.listen.classify import classify as look

    results = []
    for result in look(settings, files):
        results.append(result)
        if "error" in result:
            click.echo(f"{result['path']}: {result['error']}", err=True)
        elif not as_json:
            click.echo(texts.classify_text(result))
    if as_json:
        click.echo(json.dumps(results))
    sys.exit(1 if any("error" in r for r in results) else 0)


@main.command()
@json_option
@common
def relabel(settings: Settings, as_json: bool) -> None:
    """Apply the head in use to all cached embeddings; no file is opened."""
    from indexer.scan.relabel import relabel as apply_head

    found = apply_head(settings)
    click.echo(json.dumps(found) if as_json else f"{found['classified']:,} recordings classified with {found['head']}"
               f" in {found['elapsed_s']:.1f} s, {found['undecided']:,} undecided; tags follow with the next scan, or: indexer tags apply")
    if found["damaged"]:
        click.echo(f"indexer: {wording.count(found['damaged'], 'embedding')} could not be used (damaged); `indexer scan --force` makes them again", err=True)
        sys.exit(1)


label_options = [
    click.option("--labels", metavar="SOURCE,...", help="Where labels come from: corrections, tags, folders (default: all three)."),
    click.option("--csv", "csv_file", type=PATH, help="Labels from a CSV with the columns path (or audio_sha256) and genre."),
]


def labelled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --labels and --csv."""
    return functools.reduce(lambda f, option: option(f), reversed(label_options), function)


def _label_request(labels: str | None, csv_file: Path | None) -> "LabelRequest":
    from indexer.learn.dataset import LabelRequest

    return LabelRequest(tuple(part.strip() for part in labels.split(",")) if labels is not None else None, csv_file)


@main.command()
@labelled
@click.option("--name", help="Name of the new head.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the split and the order; the same seed gives the same head.")
@click.option("--epochs", type=int, default=100, show_default=True, help="How often all recordings are gone through, at most.")
@click.option("--target-precision", type=float, default=0.9, show_default=True, help="Share of decided genres that should be right.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted training.")
@json_option
@common
def train(settings: Settings, verbosity: int, labels: str | None, csv_file: Path | None, as_json: bool, **request: Any) -> None:
    """Learn a head from your own labels and cached embeddings, and put it in use; no file is opened."""
    from indexer.learn.train import Request, report
    from indexer.learn.train import train as learn

    with click.progressbar(length=request["epochs"], label="training", file=sys.stderr, hidden=verbosity < 0 or not sys.stderr.isatty()) as bar:
        try:
            found = learn(settings, Request(_label_request(labels, csv_file), **request), lambda epoch: bar.update(epoch.number - bar.pos))
        except KeyboardInterrupt:
            click.echo("\nthe former head stays in use; the same command with --resume goes on from here", err=True)
            raise
    click.echo(json.dumps(found) if as_json else report(found))


@main.command()
@labelled
@click.option("--folds", type=int, default=5, show_default=True, help="Parts of the cross-validation; no artist is in two.")
@click.option("--held-out", type=float, metavar="SHARE", help="Judge by this share of the recordings instead, learn from the rest.")
@click.option("--cnn", is_flag=True, help="Also train a convolutional network on spectrograms of the same tracks (decodes them).")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the folds and the training.")
@click.option("--epochs", type=int, default=100, show_default=True, help="How often all recordings are gone through, at most.")
@click.option("--target-precision", type=float, default=0.9, show_default=True, help="Share of decided genres that should be right.")
@click.option("--report", type=PATH, help="Where to write the page (.html; a .json beside it) [default: beside the database].")
@json_option
@common
def evaluate(settings: Settings, verbosity: int, labels: str | None, csv_file: Path | None, as_json: bool, **request: Any) -> None:
    """Measure how well heads know your own genres, on recordings by artists they did not learn from; a page with plots."""
    from indexer.learn.evaluate import Request
    from indexer.learn.evaluate import evaluate as judge
    from indexer.learn.report import to_text

    with click.progressbar(length=1000, file=sys.stderr, hidden=verbosity < 0 or not sys.stderr.isatty(), item_show_func=lambda what: what) as bar:
        found = judge(settings, Request(_label_request(labels, csv_file), **request), lambda what, share: bar.update(round(1000 * share) - bar.pos, what))
    click.echo(json.dumps(found) if as_json else f"{to_text(found)}\nreport: {found['report']}")


@main.command()
@click.argument("file", type=PATH)
@click.option("-n", "--count", type=click.IntRange(1), default=10, show_default=True, help="How many to list.")
@click.option("--m3u", type=PATH, help="Write them as a playlist (M3U8); '-' for stdout.")
@json_option
@common
def similar(settings: Settings, file: Path, count: int, m3u: Path | None, as_json: bool) -> None:
    """The tracks of the library nearest to FILE by embedding."""
    from indexer.library.vectors.similar import similar as ask
    from indexer.library.vectors.similar import to_m3u, to_text

    if m3u is not None and str(m3u) != "-" and m3u.suffix not in (".m3u", ".m3u8"):
        raise click.UsageError(f"--m3u: {m3u} must end in .m3u8 or .m3u")
    found = ask(settings, file, count)
    if m3u is not None:
        try:
            with click.open_file(str(m3u), "wb") as out:
                out.write(to_m3u(found))
        except OSError as e:
            raise ConfigError(f"{m3u}: cannot be written ({e.strerror})") from e
    if m3u is None or str(m3u) != "-":
        click.echo(json.dumps(found) if as_json else to_text(found))


@main.command()
@labelled
@click.option("-n", "--count", type=click.IntRange(1), default=20, show_default=True, help="How many of each to list.")
@json_option
@common
def suggest(settings: Settings, labels: str | None, csv_file: Path | None, count: int, as_json: bool) -> None:
    """Tracks whose label would teach most, and labels that look wrong, each with its reason."""
    from indexer.learn.suggest import suggest as ask
    from indexer.learn.suggest import to_text

    found = ask(settings, _label_request(labels, csv_file), count)
    click.echo(json.dumps(found) if as_json else to_text(found))


@main.command()
@click.argument("files", nargs=-1, type=PATH, required=True)
@click.argument("genre")
@click.option("--new", is_flag=True, help="Allow a genre that the library does not know yet.")
@json_option
@common
def correct(settings: Settings, files: tuple[Path, ...], genre: str, new: bool, as_json: bool) -> None:
    """Say that FILES are of GENRE: into the library and the files' own tags; the next `train` learns from it."""
    from indexer.upkeep.correct import correct as say

    found = say(settings, files, genre, new=new)
    click.echo(json.dumps(found) if as_json else texts.correct_text(found))
    sys.exit(1 if any(f["reason"] for f in found["files"]) else 0)


@main.command()
@click.argument("folder", type=PATH, default=Path("indexer-demo"))
@json_option
@common
def demo(settings: Settings, verbosity: int, folder: Path, as_json: bool) -> None:
    """Synthesise a small library in FOLDER (indexer-demo) and run the whole program on it."""
    from indexer.progress import Progress
    from indexer.upkeep.demo import demo as run

    progress = Progress(verbosity)
    found = run(settings, folder.absolute(), progress, progress.line if verbosity >= 0 else lambda _: None)
    progress.clear()
    click.echo(json.dumps(found) if as_json else f"done in {found['elapsed_s']:.0f} s; look at it: indexer serve --open --db '{found['folder']}/library.db'")
    sys.exit(1 if found["failed"] else 0)


@main.command()
@click.argument("paths", nargs=-1, type=PATH)
@click.option("-n", "--dry-run", is_flag=True, help="Only list what would be forgotten.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--embeddings", is_flag=True, help="Also embeddings of encoders that are not in use, and old heads' predictions.")
@json_option
@common
def prune(settings: Settings, paths: tuple[Path, ...], dry_run: bool, yes: bool, embeddings: bool, as_json: bool) -> None:
    """Forget files that are missing (of online roots, or below PATHS): lists them, asks, then removes their rows. No file is touched."""
    from indexer.upkeep.prune import forget, plan

    found = {"forgotten": 0, **plan(settings, paths, embeddings=embeddings)}
    if not as_json:
        click.echo(texts.prune_text(found))
    if found["files"] or found["embeddings"] or found["predictions"]:
        if not dry_run and (yes or (sys.stdin.isatty() and click.confirm("Forget them?", err=True))):
            found |= forget(settings, paths, embeddings=embeddings)
        elif not dry_run and not yes:
            click.echo("nothing was forgotten; --yes forgets without asking", err=True)
    click.echo(json.dumps(found) if as_json else f"{found['forgotten']:,} files forgotten")


@main.command()
@json_option
@common
def status(settings: Settings, as_json: bool) -> None:
    """What the library holds, and what the daemon is doing."""
    from indexer.library.summary import status as look
    from indexer.watch.status import read_status

    found = {**look(settings.db), "watch": read_status(settings.db)}
    click.echo(json.dumps(found) if as_json else texts.status_text(found))


@main.command()
@click.argument("paths", nargs=-1, type=PATH)
@click.option("--rebuild", is_flag=True, help="Make the library anew from what can be read of it; the damaged one is kept beside it.")
@json_option
@common
def doctor(settings: Settings, verbosity: int, paths: tuple[Path, ...], rebuild: bool, as_json: bool) -> None:
    """What each reader sees as genre in files, and what a write would refuse and why; without PATHS: whether the library is sound.

    Of a folder: counts, then the files with something to say. Everything is read and decoded once; nothing is written.
    """
    from indexer.progress import Progress
    from indexer.upkeep import rebuild as salvage
    from indexer.upkeep.doctor import diagnose, exit_code, to_text

    if rebuild and paths:
        raise click.UsageError("--rebuild is about the library and takes no PATHS")
    if not paths:
        report = salvage.rebuild(settings) if rebuild else salvage.check(settings.db)
        click.echo(json.dumps(report) if as_json else texts.rebuild_text(report) if rebuild else texts.check_text(report))
        sys.exit(1 if report.get("problems") else 0)
    progress = Progress(verbosity)
    try:
        found = diagnose(settings, paths, progress)
    finally:
        progress.clear()
    click.echo(json.dumps(found) if as_json else to_text(found))
    sys.exit(exit_code(found))


@main.command()
@click.argument("files", nargs=-1, type=PATH)
@click.option("--jobs", type=int, help="Child processes that read and decode files.")
@json_option
@common
def bench(settings: Settings, files: tuple[Path, ...], as_json: bool) -> None:
    """How fast this machine decodes and embeds FILES (or tracks of the library), what holds it up, how long the library takes."""
    from indexer.upkeep.bench import bench as measure
    from indexer.upkeep.bench import to_text

    found = measure(settings, files)
    click.echo(json.dumps(found) if as_json else to_text(found))


@main.command()
@click.option("--parquet", "folder", type=PATH, required=True, metavar="DIR", help="New folder to write to, or an earlier export, which is replaced.")
@json_option
@common
def export(settings: Settings, verbosity: int, folder: Path, as_json: bool) -> None:
    """Write recordings, files with their tags, embeddings, predictions and corrections as Parquet, for DuckDB, Spark, pandas or a vector database.

    A scan may go on meanwhile. Interrupted, it leaves an earlier export as it was.
    """
    from indexer.upkeep.export import export as write

    with click.progressbar(length=0, label="exporting", file=sys.stderr, hidden=verbosity < 0 or not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        found = write(settings, folder, show)
    click.echo(json.dumps(found) if as_json else texts.export_text(found))
    if found["damaged"]:
        click.echo(f"indexer: {wording.count(found['damaged'], 'embedding')} left out (damaged); `indexer scan --force` makes them again", err=True)
        sys.exit(1)


@main.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--open", "open_browser", is_flag=True, help="Open a browser.")
@common
def serve(settings: Settings, open_browser: bool) -> None:
    """Show the library in Datasette."""
    from indexer.web.serve import serve as run

    run(settings, open_browser=open_browser, announce=lambda url: click.echo(f"the library is at {url} (Ctrl-C ends)", err=True))


@main.group()
def cluster() -> None:
    """The Dask cluster that reads and embeds for a scan."""


@cluster.command("check")
@click.argument("paths", nargs=-1, type=PATH)
@clustered
@json_option
@common
def cluster_check(settings: Settings, paths: tuple[Path, ...], as_json: bool) -> None:
    """Ask every worker whether it agrees with a scan of PATHS (or the known folders): version, encoder, precision, folders; with the reasons."""
    from indexer.cluster.check import check

    found = check(settings, paths)
    click.echo(json.dumps(found) if as_json else texts.cluster_text(found))
    sys.exit(0 if found["agree"] == len(found["workers"]) else 1)


@main.group()
def service() -> None:
    """Run `indexer watch` as a systemd user service."""


@service.command("install")
@click.argument("roots", nargs=-1, type=PATH)
@click.option("--db", type=PATH, envvar="INDEXER_DB", help="The library's database.")
@click.option("--config", type=PATH, envvar="INDEXER_CONFIG", help="Settings file to read instead of the usual one.")
@json_option
def service_install(roots: tuple[Path, ...], db: Path | None, config: Path | None, as_json: bool) -> None:
    """Write, enable and start the unit; again with other options to change them."""
    from indexer.watch import service as systemd

    load_settings(config, {"db": db})  # a wrong setting is said here, not in the journal
    found = systemd.install(config=config, db=db, roots=roots)
    click.echo(json.dumps(found) if as_json else systemd.to_text(found))


@service.command("remove")
@json_option
def service_remove(as_json: bool) -> None:
    """Stop and disable the service and remove its unit."""
    from indexer.watch import service as systemd

    found = systemd.remove()
    click.echo(json.dumps(found) if as_json else systemd.to_text(found))


@service.command("status")
@json_option
def service_status(as_json: bool) -> None:
    """What systemd knows of the service."""
    from indexer.watch import service as systemd

    found = systemd.status()
    click.echo(json.dumps(found) if as_json else systemd.to_text(found))


@main.group()
def tags() -> None:
    """What was written into files, and taking it back."""


@tags.command("history")
@click.argument("file", type=PATH)
@json_option
@common
def tags_history(settings: Settings, file: Path, as_json: bool) -> None:
    """Every write to FILE, oldest first."""
    from indexer.library.summary import history

    rows = history(settings.db, file)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        reason = f"  ({row['reason']})" if row["reason"] else ""
        click.echo(f"{row['written_at']}  {row['action']:5}  {row['state']:10}  {texts.genres(row['before'])} -> {texts.genres(row['after'])}{reason}")
    if not rows:
        click.echo("nothing was written to this file")


@tags.command("undo")
@click.argument("files", nargs=-1, type=PATH)
@click.option("--run", "run_id", type=int, help="Everything that one scan wrote.")
@click.option("--since", metavar="TIME", help="Everything written since a time, such as 2026-11-22 or 2026-11-22T10:00Z.")
@click.option("--all", "everything", is_flag=True, help="Everything that is still in place.")
@click.option("-f", "--force", is_flag=True, help="Also where the genre was changed since.")
@json_option
@common
def tags_undo(settings: Settings, files: tuple[Path, ...], run_id: int | None, since: str | None, everything: bool,
              force: bool, as_json: bool) -> None:
    """Restore the former genre of FILES and remove our fields. Works from the files' own fields, with or without a library."""
    from indexer.scan.undo import undo_files

    if sum((bool(files), run_id is not None, since is not None, everything)) != 1:
        raise click.UsageError("name files, or one of --run, --since and --all")
    done = undo_files(settings, files, run_id=run_id, since=since, force=force)
    for path, reason in done["refused"]:
        click.echo(f"{path}: {reason}", err=True)
    click.echo(json.dumps(done) if as_json else f"{len(done['restored']):,} restored, {len(done['nothing']):,} held nothing of ours, "
               f"{len(done['refused']):,} left alone")
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
        click.echo(json.dumps(found) if as_json else texts.preview_text(found))
        return
    run_scan(settings, paths, verbosity=verbosity, as_json=as_json, explicit_tags=True)


@main.group()
def models() -> None:
    """Encoders and heads: what there is, download, add, choose."""


@models.command("list")
@json_option
@common
def models_list(settings: Settings, as_json: bool) -> None:
    """Built-in, installed and published models."""
    from indexer.models.choice import overview

    found = overview(settings.models)
    click.echo(json.dumps(found) if as_json else texts.models_text(found))


@models.command("download")
@click.argument("name")
@click.option("--accept-licence", is_flag=True, help="Accept NTT's licence without being asked.")
@click.option("--base-url", help="Another server laid out like NTT's release pages.")
@common
def models_download(settings: Settings, verbosity: int, name: str, accept_licence: bool, base_url: str | None) -> None:
    """Fetch a published checkpoint from NTT, after showing its licence; a broken download is resumed."""
    from indexer.models import catalogue

    def accept(notice: str) -> bool:
        click.echo(notice, err=True)
        return accept_licence or (sys.stdin.isatty() and click.confirm("Do you accept this licence?", err=True))

    with click.progressbar(length=0, label=name, file=sys.stderr, show_pos=True, hidden=verbosity < 0) as bar:

        def show(done: int, total: int | None) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        path = catalogue.download(name, settings.models, accept=accept, progress=show, base_url=base_url or catalogue.BASE_URL)
    click.echo(f"installed {path.parent.name}")


@models.command("add")
@click.argument("source", type=PATH)
@click.option("--name", help="Name to install it under.")
@common
def models_add(settings: Settings, source: Path, name: str | None) -> None:
    """Install a checkpoint that is here already: .pth, .zip or folder."""
    from indexer.models import catalogue

    click.echo(f"installed {catalogue.add(source, settings.models, name=name).parent.name}")


@models.command("info")
@click.argument("name")
@json_option
@common
def models_info(settings: Settings, name: str, as_json: bool) -> None:
    """Geometry, front end, identity and head of a model (a name or a path)."""
    from indexer.models.choice import describe

    found = describe(settings, name)
    click.echo(json.dumps(found) if as_json else "\n".join(f"{key}: {value}" for key, value in found.items()))


@models.command("use")
@click.argument("name")
@common
def models_use(settings: Settings, name: str) -> None:
    """Make a model (and with --head its head) the library's: a name or a checkpoint's path."""
    from indexer.models.choice import use

    click.echo(use(settings, name))
