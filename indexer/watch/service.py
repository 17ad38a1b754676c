"""Installs, removes and shows the systemd user unit of the daemon: `indexer service`.

Owns the unit's text and the calls of `systemctl --user`. Never writes or removes a unit that it did not write itself,
needs no root, and never touches the library.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from indexer.errors import ConfigError
from indexer.files.replace import replace_text
from indexer.wording import escaped

UNIT = "indexer.service"
MARKER = '# Written by "indexer service install".'  # a unit with this line was written by this module
ELSEWHERE = "run `indexer watch` in the foreground or under another supervisor"

_PLAIN_ARGUMENT = re.compile(r"[A-Za-z0-9_@+=:,./-]+")  # needs no quotes in a unit
_PROPERTIES = (
    "FragmentPath",
    "UnitFileState",
    "ActiveState",
    "SubState",
    "Result",
    "NRestarts",
    "MainPID",
    "MemoryCurrent",
    "ActiveEnterTimestamp",
    "StatusText",
)

_UNIT_TEXT = """\
{marker}
# "indexer service remove" deletes it and the next "install" overwrites it: put changes of your own into
# "systemctl --user edit indexer".

[Unit]
Description=indexer: keeps the music library labelled

[Service]
# Started means: the folders are watched. Reports come from the main process alone, not from the readers it starts.
Type=notify
NotifyAccess=main
# ":" keeps "$" in a path as it is.
ExecStart=:{command}
# Read the settings again.
ExecReload=/bin/kill -HUP $MAINPID
# "python" would say little in the journal.
SyslogIdentifier=indexer
# The home folder is the working folder: a random.py that lies there must not replace Python's own module.
Environment=PYTHONSAFEPATH=1

# Loading a model and backing up a large library before its upgrade come before "started".
TimeoutStartSec=300
Restart=on-failure
# Costs little while a scan by hand holds the library (exit 75), and never reaches systemd's limit of starts.
RestartSec=30
# Exit 2 is a wrong setting or option: starting again would not help.
RestartPreventExitStatus=2
# The work loop reports, no timer does: silence means that the work hangs.
WatchdogSec=300
# The watchdog ends the process by an abort: its traceback goes to the journal, gigabytes of model to nowhere.
LimitCORE=0
# Stopping finishes the tag write in work, which copies one file, perhaps 2 GB on a slow disk.
TimeoutStopSec=180
# Ask the main process to stop; the readers belong to it, and only what is left of them is killed.
KillMode=mixed

# Whoever works at the machine goes first: Nice counts among the processes of one control group, CPUWeight (100 is
# usual) between groups.
Nice=10
CPUWeight=20
IOSchedulingClass=idle
# High: reading a whole library must not push everybody else's files out of the page cache, which counts here too.
# Max: a leak ends this service and not the session. Ordinary use on a CPU is below 1 GB; a GPU's libraries take more.
MemoryHigh=3G
MemoryMax=5G
# A reader killed for its memory costs one file; by default systemd would stop the whole service.
OOMPolicy=continue

# What a user's unit can have while tags are written into folders anywhere. ProtectHome, ProtectSystem and PrivateTmp
# would need a user namespace, in which a file's owner and group cannot be kept; RestrictSUIDSGID would refuse to keep
# some files' modes; MemoryDenyWriteExecute stops libraries that generate code for the processor.
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictNamespaces=yes
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


def own_command() -> list[str]:
    """The command that starts this program: the script beside the running Python, else `python -m indexer`."""
    script = Path(sys.executable).with_name("indexer")
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-P", "-m", "indexer"]


def unit_text(
    executable: Sequence[str],
    *,
    config: Path | None = None,
    db: Path | None = None,
    roots: Sequence[Path] = (),
) -> str:
    """The text of a unit that runs ``executable watch`` with these options; relative paths become absolute.

    Raises ConfigError for an executable whose path systemd cannot start.
    """
    program = os.fspath(Path(executable[0]).absolute())
    if not program.isprintable() or any(c in program for c in "\"'\\"):
        raise ConfigError(
            f"{escaped(program)}: systemd starts no program with a quote, backslash or control "
            f"character in its path; install indexer in another folder, or {ELSEWHERE}"
        )
    arguments: list[str | Path] = [program, *executable[1:], "watch"]
    for option, path in (("--config", config), ("--db", db)):
        arguments += [] if path is None else [option, path.absolute()]
    arguments += [root.absolute() for root in roots]
    return _UNIT_TEXT.format(marker=MARKER, command=" ".join(_quoted(os.fspath(a)) for a in arguments))


def _quoted(argument: str) -> str:
    """An argument quoted as in systemd.service(5) and systemd.syntax(7); bytes that are not UTF-8 are escaped.

    A "$" stays: the ":" before the unit's command switches the expansion of variables off.
    """
    if _PLAIN_ARGUMENT.fullmatch(argument):
        return argument
    special = {"\\": "\\\\", '"': '\\"', "%": "%%"}
    return '"' + "".join(special.get(c, c if c.isprintable() else _as_bytes(c)) for c in argument) + '"'


def _as_bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def unit_path() -> Path:
    """The path of the unit: below $XDG_CONFIG_HOME, else below ~/.config."""
    configured = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    home = configured if configured.is_absolute() else Path.home() / ".config"
    return home / "systemd" / "user" / UNIT


def install(
    executable: Sequence[str] | None = None,
    *,
    config: Path | None = None,
    db: Path | None = None,
    roots: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write, enable and start the unit; return {unit, changed, logs, without_login}. A second call changes nothing.

    Raises ConfigError where no user manager runs, where another program wrote a unit of that name, or where it does not
    start.
    """
    path = unit_path()
    before = _own_text(path)
    text = unit_text(executable or own_command(), config=config, db=db, roots=roots)
    _systemctl("show", "--property=Version")  # nothing is written where no user manager answers
    if text != before:
        replace_text(path, text, 0o644)
    _systemctl("daemon-reload")
    if before in (None, text):
        _systemctl("enable", "--now", UNIT)
    else:
        _systemctl("enable", UNIT)
        _systemctl("restart", UNIT)  # it runs with the old text
    return {
        "unit": str(path),
        "changed": text != before,
        "logs": "journalctl --user -u indexer -f",
        "without_login": "loginctl enable-linger lets it run while nobody is logged in",
    }


def remove() -> dict[str, Any]:
    """Stop, disable and delete the unit; return {unit, removed}. ``removed`` is False where there was none.

    Raises ConfigError where no user manager runs, or where another program wrote the unit.
    """
    path = unit_path()
    found = _own_text(path) is not None
    if found:
        _systemctl("disable", "--now", UNIT)
        try:
            path.unlink(missing_ok=True)
        except OSError as e:
            raise ConfigError(f"{path}: cannot be deleted ({e.strerror})") from e
        _systemctl("daemon-reload")
    return {"unit": str(path), "removed": found}


def status() -> dict[str, Any]:
    """The state of the unit, as systemd reports it.

    {installed: path, enabled: bool, active: bool, state, result, restarts, main_pid, memory_bytes, since: ISO 8601 in
    UTC, says: the daemon's last STATUS}; a value is None where it does not apply. Raises ConfigError where no user
    manager runs.
    """
    lines = _systemctl("show", f"--property={','.join(_PROPERTIES)}", UNIT).splitlines()
    shown = dict(line.split("=", 1) for line in lines if "=" in line)
    active = shown.get("ActiveState") in ("active", "reloading")
    return {
        "installed": shown.get("FragmentPath") or None,
        "enabled": shown.get("UnitFileState") == "enabled",
        "active": active,
        "state": f"{shown.get('ActiveState', 'unknown')} ({shown.get('SubState', 'unknown')})",
        "result": shown.get("Result") or None,
        "restarts": _number(shown, "NRestarts"),
        "main_pid": _number(shown, "MainPID") or None,
        "memory_bytes": _number(shown, "MemoryCurrent"),
        "since": _iso_time(shown.get("ActiveEnterTimestamp", "")) if active else None,
        "says": shown.get("StatusText") or None,
    }


def _number(shown: Mapping[str, str], name: str) -> int | None:
    """A property's value; None for "[not set]" and for the largest 64-bit number, which mean "unknown"."""
    text = shown.get(name, "")
    return int(text) if text.isdigit() and int(text) < 2**64 - 1 else None


def _iso_time(timestamp: str) -> str | None:
    """ISO 8601 for a time such as "Mon 2025-01-27 10:00:00 UTC" of systemctl; None for text of another form."""
    parts = timestamp.split()
    return f"{parts[1]}T{parts[2]}Z" if len(parts) == 4 else None


def to_text(result: Mapping[str, Any]) -> str:
    """The result of install, remove or status as text, one line for each value that is not None."""
    return "\n".join(
        f"{name.removesuffix('_bytes').replace('_', ' ')}: {_readable(name, value)}"
        for name, value in result.items()
        if value is not None
    )


def _readable(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value / 1e6:,.0f} MB" if name.endswith("_bytes") else escaped(str(value))


def _own_text(path: Path) -> str | None:
    """The unit's text; None where there is no unit. Raises ConfigError where another program wrote it."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        if path.is_symlink():
            raise ConfigError(f"{path}: is a link to a file that does not exist; remove it first") from None
        return None
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror})") from e
    if MARKER not in text.splitlines():
        raise ConfigError(f"{path}: was not written by indexer and is left alone; rename or remove it first")
    return text


def _systemctl(*arguments: str) -> str:
    """The output of `systemctl --user`, with times in UTC. Raises ConfigError with its first line where it fails."""
    tool = shutil.which("systemctl")
    if tool is None:
        raise ConfigError(f"systemctl: not found, services need systemd; {ELSEWHERE}")
    if not any(os.environ.get(name) for name in ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")):
        raise _no_manager("neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set")
    done = subprocess.run(
        [tool, "--user", "--quiet", "--no-pager", *arguments],
        check=False,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
    )
    if done.returncode:
        reason = next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        if "connect to bus" in reason or "connect to user scope bus" in reason:
            raise _no_manager(reason)
        raise ConfigError(
            f"systemctl --user {' '.join(arguments)}: {reason}; `journalctl --user -u indexer` may say why"
        )
    return done.stdout


def _no_manager(reason: str) -> ConfigError:
    return ConfigError(
        f"systemd runs no user manager for this session ({reason}); log in as the user, not through su "
        f"or sudo, or {ELSEWHERE}"
    )
