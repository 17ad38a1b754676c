"""`indexer init`: from nothing to a labelled library by a few questions, each of which an option answers too.

Folder, encoder and what may go into tags are kept in the settings file as soon as they are answered. The rest can be
seen: a head in use, an installed service. So an interrupted call goes on when it is made again.
"""

import sys
from dataclasses import replace
from pathlib import Path

import click

from indexer.cli import text
from indexer.cli.learn import learned
from indexer.cli.models import fetched, prepare
from indexer.cli.options import PATH, common
from indexer.cli.output import note, say, show
from indexer.cli.scan import apply_head, scanned
from indexer.config import Policy, Settings, config_file, load_settings, made, settings_file
from indexer.conversion import expanded
from indexer.errors import ConfigError, ModelError
from indexer.upkeep.settings_file import keep
from indexer.wording import escaped

WELCOME = "a few questions; Ctrl-C at any time, `indexer init` goes on from there"
GOES_ON = "`indexer init` goes on from here"
ENCODER_QUESTION = (
    "Which encoder? It turns sound into numbers, once for each recording; a head, learned from genres that you give,",
    "turns the numbers into a genre.",
)


@click.command()
@click.argument("folders", nargs=-1, type=PATH)
@click.option("--tags/--no-tags", default=None, help="Whether a decided genre may go into files that have none.")
@click.option("--learn/--no-learn", default=None, help="Whether to learn from the genres that your music has now.")
@click.option("--service/--no-service", default=None, help="Whether systemd runs `indexer watch` from now on.")
@click.option("--open/--no-open", "opens", default=None, help="Whether to open the pages in a browser at the end.")
@click.option("--accept-licence", is_flag=True, help="Accept the licence of a published encoder without being asked.")
@common
def init(
    settings: Settings,
    config: Path | None,
    verbosity: int,
    folders: tuple[Path, ...],
    tags: bool | None,
    learn: bool | None,
    service: bool | None,
    opens: bool | None,
    accept_licence: bool,
) -> None:
    """Set everything up: ask a few questions, scan FOLDERS, learn from the genres that are there, show the pages.

    An option answers its question beforehand. Folders, encoder and --tags are kept in the settings file. Ctrl-C at any
    time: the next call goes on from there.
    """
    file = settings_file(config)
    try:
        if sys.stdin.isatty():
            note(WELCOME)
        settings = _with_folders(settings, file, folders)
        settings = _with_encoder(settings, file)
        settings = _with_tags(settings, file, tags)
        learn = _learns(settings, learn)
        service = _installs(service)
        opens = _yes("Open the pages in a browser at the end?", opens, "open", default=True)
        _download(settings, file, verbosity, accept_licence)
        exit_code = _scan_and_learn(settings, verbosity, learn)
        if service:
            _install(settings, file)
    except (KeyboardInterrupt, click.Abort):
        note(GOES_ON)
        raise
    if not opens:
        say("done; look at it: indexer serve --open")
        sys.exit(exit_code)
    from indexer.web.serve import serve

    serve(settings, open_browser=True, announce=lambda url: note(f"the library is at {url} (Ctrl-C ends)"))


def _with_folders(settings: Settings, file: Path, folders: tuple[Path, ...]) -> Settings:
    """The settings with the folders of the command, else those that they have, else those that are asked for."""
    given = [_folder(str(folder)) for folder in folders]
    if not given and not settings.roots:
        _must_ask("the folder of your music")
        usual = Path.home() / "Music"
        given = [click.prompt("Folder of your music", usual if usual.is_dir() else None, value_proc=_folder, err=True)]
    new = [folder for folder in given if folder not in settings.roots]
    if not new:
        return settings
    roots = (*settings.roots, *new)
    keep(file, {"roots": [str(root) for root in roots]})
    return replace(settings, roots=roots)


def _folder(answer: str) -> Path:
    """The absolute path of a folder. Raises BadParameter, which a prompt answers with the same question."""
    path = expanded(answer).absolute()
    if not path.is_dir():
        raise click.BadParameter(f"{escaped(str(path))}: there is no such folder")
    return path


def _with_encoder(settings: Settings, file: Path) -> Settings:
    """The settings with the encoder to use from now on, perhaps not downloaded yet; a library's own stays."""
    from indexer.library.registered import in_use_by
    from indexer.models.guide import KINDS

    if settings.encoder:
        encoder = _known(settings.encoder, settings)
    else:
        library = in_use_by(settings.db)
        if library.encoder or library.embedded_by:
            return settings
        _must_ask("--encoder NAME")
        for line in (*ENCODER_QUESTION, *text.encoders_text([kind.facts() for kind in KINDS]).splitlines()):
            note(line)
        usual = next(kind.name for kind in KINDS if kind.recommended)
        encoder = click.prompt("Encoder", usual, value_proc=lambda answer: _known(answer, settings), err=True)
    settings = replace(settings, encoder=encoder)
    _keep_encoder(settings, file)
    return settings


def _keep_encoder(settings: Settings, file: Path) -> None:
    """Keep the encoder once it is here: a licence that was asked for may be refused."""
    from indexer.models.guide import needs_download

    if settings.encoder and not needs_download(settings.encoder, settings.models):
        keep(file, {"encoder": settings.encoder})


def _download(settings: Settings, file: Path, verbosity: int, accept_licence: bool) -> None:
    from indexer.models.guide import needs_download

    if settings.encoder and needs_download(settings.encoder, settings.models):
        if not accept_licence:
            _must_ask("--accept-licence")
        path = fetched(settings, settings.encoder, verbosity=verbosity, accept_licence=accept_licence)
        _keep_encoder(settings, file)
        prepare(settings, path, verbosity)


def _known(answer: str, settings: Settings) -> str:
    """The encoder that an answer names. Raises BadParameter for one that is neither here nor published."""
    from indexer.models.choice import named
    from indexer.models.guide import model_of, needs_download

    name = model_of(answer)
    try:
        if not needs_download(name, settings.models):
            named(name, settings.models)
    except ModelError as e:
        raise click.BadParameter(str(e)) from e
    return name


def _with_tags(settings: Settings, file: Path, tags: bool | None) -> Settings:
    """The settings with what may happen to tags: as they have it, unless an option or an answer says otherwise."""
    if tags is None and "write_tags" in made(file):
        return settings
    wanted = _yes("May it write the genre into files that have none? Each can be undone.", tags, "tags", default=True)
    policy: Policy = ("fill" if settings.write_tags == "off" else settings.write_tags) if wanted else "off"
    keep(file, {"write_tags": policy})
    return replace(settings, write_tags=policy)


def _learns(settings: Settings, learn: bool | None) -> bool:
    """Whether to train a head after the scan; not asked where one is in use for this encoder."""
    if learn is None and _has_trained_head(settings):
        return False
    return _yes("Learn from the genres in your tags and folder names, after the scan?", learn, "learn", default=True)


def _has_trained_head(settings: Settings) -> bool:
    """Whether a head that was trained for this encoder is in use."""
    from indexer.library.registered import in_use_by
    from indexer.models.choice import choose

    try:
        chosen = choose(settings, in_use_by(settings.db))
    except ModelError:  # the encoder is yet to be downloaded
        return False
    return chosen is not None and chosen.head is not None and chosen.head.kind == "linear"


def _installs(service: bool | None) -> bool:
    """Whether to install the service; not asked where systemd serves no user, or where it is installed."""
    from indexer.watch.service import status

    if service is False:
        return False
    try:
        installed = status()["installed"]
    except ConfigError:
        if service:
            raise
        return False
    if service is None and installed:
        return False
    return _yes("Keep the library up to date from now on, as a service of systemd?", service, "service", default=False)


def _install(settings: Settings, file: Path) -> None:
    from indexer.watch.service import install, to_text

    own_db = load_settings(file, environ={}).db != settings.db  # the service knows neither options nor environment
    found = install(config=None if file == config_file() else file, db=settings.db if own_db else None)
    show(found, to_text, as_json=False)


def _scan_and_learn(settings: Settings, verbosity: int, learn: bool) -> int:
    """Scan, and where wanted train, classify and write; returns the exit code."""
    from indexer.learn.train import Request, report

    had_head = _has_trained_head(settings)
    result = scanned(settings, (), verbosity=verbosity, says_why=not learn)
    show(result.to_json(), lambda found: text.scan_text(found, verbose=verbosity > 0), as_json=False)
    if result.interrupted:
        raise KeyboardInterrupt
    if not result.files:
        note(
            "no audio file was found: `indexer init FOLDER` takes another folder in, `indexer forget FOLDER` drops one"
        )
        return 1
    if learn:
        try:
            found = learned(settings, Request(resume=True), verbosity=verbosity)
        except ModelError as e:
            note(f"nothing is learned yet: {e}")
            note("label some tracks (`indexer suggest` lists the most useful ones), then: `indexer train --apply`")
            return 1
        show(found, report, as_json=False)
    if learn or had_head:
        return max(result.exit_code, apply_head(settings, verbosity=verbosity, as_json=False)[1])
    return result.exit_code


def _yes(question: str, answer: bool | None, flag: str, *, default: bool) -> bool:
    if answer is not None:
        return answer
    _must_ask(f"--{flag} or --no-{flag}")
    return click.confirm(question, default=default, err=True)


def _must_ask(missing: str) -> None:
    """Raise ConfigError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise ConfigError(f"init can ask on a terminal only: give {missing}")
