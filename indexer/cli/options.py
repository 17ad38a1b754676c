"""The options that commands share, and their conversion to settings."""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from indexer.config import load_settings


class _NamedPath(click.Path):
    """A path that says something: `--m3u "$UNSET"` is not the folder that the shell stands in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("it is empty; name a file or a folder ('.' is this one)", param, ctx)
        return super().convert(value, param, ctx)


PATH = _NamedPath(path_type=Path)
COMMON = [
    click.option("--db", type=PATH, help="The library's database."),
    click.option("--config", type=PATH, help="Settings file to read instead of the usual one."),
    click.option(
        "--encoder",
        metavar="NAME|PATH",
        help="Model to embed with: a built-in one such as musicnn, an installed name, or a checkpoint's path.",
    ),
    click.option("--head", metavar="NAME|PATH", help="Head to classify with: 'audioset', or a head file's path."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="Where the encoder runs."),
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "int8"]), help="Arithmetic of the encoder."),
    click.option("--units", metavar="N|all", help="Units of a recording that are embedded, evenly spread over it."),
    click.option("-v", "--verbose", is_flag=True, help="Print one line for each file."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no notes, only the result."),
]
CLUSTER = [
    click.option(
        "--cluster", metavar="tcp://HOST:PORT", help="Dask scheduler whose workers read and embed; see docs/cluster.md."
    ),
    click.option(
        "--map",
        "map",
        multiple=True,
        metavar="HERE=THERE",
        help="Folder here and the same folder as the workers see it; repeatable.",
    ),
    click.option(
        "--worker-resources",
        multiple=True,
        metavar="NAME=N",
        help="What a worker must offer to embed, such as GPU=1; the others only read.",
    ),
    click.option("--tls-ca", type=PATH, help="Certificate of the authority that signed all certificates (tls://)."),
    click.option("--tls-cert", type=PATH, help="This machine's certificate."),
    click.option("--tls-key", type=PATH, help="The key of this machine's certificate."),
]
# Settings that some commands have a flag for.
PAIRS = {"map": "--map", "worker_resources": "--worker-resources", "dj_map": "--map"}  # of HERE=THERE, repeatable
FLAGS = ("jobs", "host", "port", "cluster", "tls_ca", "tls_cert", "tls_key")


def clustered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a cluster."""
    return functools.reduce(lambda f, option: option(f), reversed(CLUSTER), function)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common options, and call it with ``settings`` in their place.

    It also receives, if it has such parameters, ``verbosity``, ``reload``, which reads the settings again, and
    ``config``, the settings file that was named.
    """
    wants_verbosity, wants_reload, wants_config = (
        name in inspect.signature(function).parameters for name in ("verbosity", "reload", "config")
    )

    @functools.wraps(function)
    def with_settings(
        db: Path | None,
        config: Path | None,
        encoder: str | None,
        head: str | None,
        device: str | None,
        precision: str | None,
        units: str | None,
        verbose: bool,
        quiet: bool,
        **arguments: Any,
    ) -> Any:
        from indexer.library.sqlite import plain_errors

        flags: dict[str, Any] = {
            "db": db,
            "encoder": encoder,
            "head": head,
            "device": device,
            "precision": precision,
            "units": int(units) if units and units.isdecimal() else units,
        }
        flags |= {key: arguments.pop(key) for key in FLAGS if key in arguments}
        flags |= {key: _pairs(arguments.pop(key), flag) for key, flag in PAIRS.items() if key in arguments}
        if wants_verbosity:
            arguments["verbosity"] = int(verbose) - int(quiet)
        if wants_reload:
            arguments["reload"] = functools.partial(load_settings, config, flags)
        if wants_config:
            arguments["config"] = config
        settings = load_settings(config, flags)
        with plain_errors(settings.db):  # any read of the library may find it damaged
            return function(settings=settings, **arguments)

    return functools.reduce(lambda f, option: option(f), reversed(COMMON), with_settings)


def _pairs(texts_given: tuple[str, ...], flag: str) -> dict[str, str] | None:
    from indexer.cluster.settings import pairs

    return pairs(texts_given, flag)


dj_map_option = click.option(
    "--map",
    "dj_map",
    multiple=True,
    metavar="HERE=THERE",
    help="Folder here and the same folder where the DJ program runs, such as /mnt/music=D:/Music; repeatable.",
)
set_option = click.option(
    "--set", "label_set", metavar="NAME", help="A label set of the settings, such as mood, instead of genres."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


label_options = [
    click.argument("more_playlists", nargs=-1, type=PATH, metavar="[PLAYLIST]..."),
    click.option(
        "--labels",
        metavar="SOURCE,...",
        help="Where labels come from: corrections, tags, folders (default: all three; with --csv or --playlists"
        " corrections and these).",
    ),
    click.option(
        "--csv", "csv_file", type=PATH, help="Labels from a CSV with the columns path (or audio_sha256) and genre."
    ),
    click.option(
        "--playlists",
        type=PATH,
        multiple=True,
        metavar="PATH...",
        help="Labels from the names of playlists and their folders: rekordbox XML, Serato crates, M3U8, Traktor's NML,"
        " or a folder of them.",
    ),
    dj_map_option,
]


def labelled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options about labels, and call it with ``label_request`` in their place."""

    @functools.wraps(function)
    def with_request(
        labels: str | None,
        csv_file: Path | None,
        playlists: tuple[Path, ...],
        more_playlists: tuple[Path, ...],
        **arguments: Any,
    ) -> Any:
        from indexer.cli.progress import Progress
        from indexer.learn.dataset import LabelRequest

        if more_playlists and not playlists:
            raise click.UsageError(f"{more_playlists[0]}: playlists come after --playlists")
        sources = None if labels is None else tuple(part.strip() for part in labels.split(","))
        progress = Progress(-1 if arguments["quiet"] else 0)
        progress.begin("reading playlists:", 0)
        request = LabelRequest(sources, csv_file, (*playlists, *more_playlists), looking=progress.at)
        return function(label_request=request, **arguments)

    return functools.reduce(lambda f, option: option(f), reversed(label_options), with_request)
