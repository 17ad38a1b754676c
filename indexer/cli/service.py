"""Commands that run `indexer watch` as a systemd user service."""

from pathlib import Path

import click

from indexer.cli.options import PATH, json_option
from indexer.cli.output import show
from indexer.config import load_settings


@click.group()
def service() -> None:
    """Run `indexer watch` as a systemd user service."""


@service.command("install")
@click.argument("roots", nargs=-1, type=PATH)
@click.option("--db", type=PATH, envvar="INDEXER_DB", help="The library's database.")
@click.option("--config", type=PATH, envvar="INDEXER_CONFIG", help="Settings file to read instead of the usual one.")
@json_option
def service_install(roots: tuple[Path, ...], db: Path | None, config: Path | None, as_json: bool) -> None:
    """Write, enable and start the unit. Run it again with other options to change them."""
    from indexer.watch.service import install, to_text

    load_settings(config, {"db": db})  # reports a wrong setting here, not later in the journal
    found = install(config=config, db=db, roots=roots)
    show(found, to_text, as_json=as_json)


@service.command("remove")
@json_option
def service_remove(as_json: bool) -> None:
    """Stop and disable the service and remove its unit."""
    from indexer.watch.service import remove, to_text

    found = remove()
    show(found, to_text, as_json=as_json)


@service.command("status")
@json_option
def service_status(as_json: bool) -> None:
    """Show what systemd knows of the service."""
    from indexer.watch.service import status, to_text

    found = status()
    show(found, to_text, as_json=as_json)
