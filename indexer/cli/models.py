"""Commands about encoders: list, download, add, info, use."""

import sys
from pathlib import Path

import click

from indexer.cli import text
from indexer.cli.options import PATH, common, json_option
from indexer.cli.output import note, say, show
from indexer.config import Settings


@click.group()
def models() -> None:
    """List, download, add and choose encoders and heads."""


@models.command("list")
@json_option
@common
def models_list(settings: Settings, as_json: bool) -> None:
    """List built-in, installed and published models."""
    from indexer.models.choice import overview

    found = overview(settings.models)
    show(found, text.models_text, as_json=as_json)


@models.command("download")
@click.argument("name")
@click.option("--accept-licence", is_flag=True, help="Accept the licence without being asked.")
@click.option("--base-url", help="Another server laid out like NTT's release pages, or Hugging Face's.")
@common
def models_download(settings: Settings, verbosity: int, name: str, accept_licence: bool, base_url: str | None) -> None:
    """Fetch a published checkpoint, or what texts need, after showing its licence; a broken download is resumed."""
    from indexer.models import texts

    path = fetched(settings, name, verbosity=verbosity, accept_licence=accept_licence, base_url=base_url)
    say(f"installed {path.parent.name}")
    if not texts.known(name):
        prepare(settings, path, verbosity)


def fetched(
    settings: Settings, name: str, *, verbosity: int, accept_licence: bool, base_url: str | None = None
) -> Path:
    """Download a published checkpoint with progress, after asking about its licence; returns its path."""
    from indexer.models import catalogue, texts

    def accept(notice: str) -> bool:
        for line in notice.splitlines():
            note(line)
        return accept_licence or (sys.stdin.isatty() and click.confirm("Do you accept this licence?", err=True))

    with click.progressbar(length=0, label=name, width=0, file=sys.stderr, show_pos=True, hidden=verbosity < 0) as bar:

        def progressed(done: int, total: int | None) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        if (file := texts.known(name)) is not None:
            return texts.download(
                file, settings.models, accept=accept, progress=progressed, base_url=base_url or texts.BASE_URL
            )
        return catalogue.download(name, settings.models, accept=accept, progress=progressed, base_url=base_url)


def prepare(settings: Settings, path: Path, verbosity: int) -> None:
    """Prepare an installed model for this processor, with progress; a scan does what is not done here.

    Quantising and measuring take up to a minute, which the first scan need not spend.
    """
    from indexer.encoders import checkpoints, device
    from indexer.errors import ModelError

    def progressed(precision: str, done: int, steps: int) -> None:
        if verbosity >= 0:
            note(f"preparing it for this processor: {precision} ({done + 1} of {steps})")

    try:
        if device.chosen(settings.device) == "cpu":
            checkpoints.prepare(path, progressed)
    except ModelError as error:
        note(f"it could not be prepared for this processor: {error}")


@models.command("add")
@click.argument("source", type=PATH)
@click.option("--name", help="Name to install it under.")
@common
def models_add(settings: Settings, verbosity: int, source: Path, name: str | None) -> None:
    """Install a checkpoint that is here already (.pth, .zip, folder), or a text encoder's files."""
    from indexer.models import catalogue, texts

    if of_texts := texts.recognised(source):
        for file, path in of_texts:
            texts.add(path, file, settings.models)
            say(f"installed {file.name}")
        return
    path = catalogue.add(source, settings.models, name=name)
    say(f"installed {path.parent.name}")
    prepare(settings, path, verbosity)


@models.command("info")
@click.argument("name")
@json_option
@common
def models_info(settings: Settings, name: str, as_json: bool) -> None:
    """Show geometry, front end, identity and head of a model (a name or a path)."""
    from indexer.models.choice import describe

    found = describe(settings, name)
    show(found, lambda found: "\n".join(f"{key}: {value}" for key, value in found.items()), as_json=as_json)


@models.command("use")
@click.argument("name")
@common
def models_use(settings: Settings, name: str) -> None:
    """Put a model in use for the library (and with --head its head): a name or a checkpoint's path."""
    from indexer.models.choice import use

    say(use(settings, name))
