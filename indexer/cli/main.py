"""The command line: parse, call one function, print.

No SQL, no mutagen, and torch only in the commands that embed, so that `indexer --help` and `indexer status` start fast.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click

from indexer import __version__
from indexer.cli import init, learn, library, models, scan, service, tags
from indexer.cli.output import note
from indexer.errors import IndexerError
from indexer.wording import escaped


class _Group(click.Group):
    """Turns our errors, and Ctrl-C, into one line on stderr and the exit code that they carry."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _told():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _told():
            return super().invoke(ctx)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except click.ClickException as e:  # it may name an argument, which the shell may have made of a file's name
        vars(e).update(message=escaped(e.message))
        raise
    except IndexerError as e:
        note(f"indexer: {e}")
        sys.exit(e.exit_code)
    except (KeyboardInterrupt, click.Abort):
        note("indexer: interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the program that reads our output has ended
        sys.stderr.close()
        sys.exit(1)


@click.group(cls=_Group)
@click.version_option(__version__, prog_name="indexer")
def main() -> None:
    """Keep an electronic-music library labelled: embed, classify, tag, browse. Begin with `indexer init`.

    An encoder turns the sound of a recording into numbers, its embedding. A head turns an embedding into a genre, with
    how sure it is.
    """


for command in (
    init.init, scan.scan, scan.watch, scan.classify, scan.relabel, scan.correct,
    learn.train, learn.evaluate, learn.suggest,
    library.status, library.similar, library.find, library.duplicates,
    library.doctor, library.prune, library.forget, library.export,
    library.bench, library.serve, library.demo, library.cluster,
    tags.tags, models.models, service.service,
):  # fmt: skip
    main.add_command(command)
