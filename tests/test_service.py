"""The supervisor gets the right messages, odd paths reach the daemon unchanged, only our own unit is touched."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import ConfigError
from indexer.watch import notify, service

ODD = Path(os.fsdecode(b"/mu sic/100% $HOME ${X} 'a' \"b\" \\ \\x41 \t\n\r\x01 \xc3\xa9\xc2\x85 \xff %h ; #/l.db"))


# Notifications


@pytest.fixture(params=["path", "abstract"])
def supervisor(request, tmp_path, monkeypatch):
    name = str(tmp_path / "notify") if request.param == "path" else f"@indexer-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if request.param == "abstract" else name)
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listener


def test_states_arrive_in_one_message(supervisor):
    notify.notify("READY=1", "STATUS=watching 3 folders")
    assert supervisor.recv(8192) == b"READY=1\nSTATUS=watching 3 folders"


def test_a_file_name_in_the_status_cannot_add_a_state(supervisor):
    notify.notify("STATUS=a\nMAINPID=1\r\x1b[31m" + os.fsdecode(b"\xff \xc3\xa9"), "WATCHDOG=1")
    lines = supervisor.recv(8192).decode().split("\n")
    assert lines == ["STATUS=a\\nMAINPID=1\\r\\x1b[31m\\xff é", "WATCHDOG=1"]


def test_reloading_carries_the_clock_that_systemd_compares_with(supervisor):
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify.notify("RELOADING=1")
    state, stamp = supervisor.recv(8192).decode().split("\n")
    assert state == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_long_status_does_not_make_the_message_too_long_for_systemd(supervisor):
    notify.notify("STATUS=" + "\U0001f3b5" * 5000, "WATCHDOG=1", "RELOADING=1")
    message = supervisor.recv(100_000)
    assert len(message) < 4096
    assert b"\nWATCHDOG=1\n" in message


@pytest.mark.parametrize("address", [None, "", "/nowhere/all", "@nobody-listens", "/" + "x" * 300, "vsock:2:1234"])
def test_nothing_happens_where_nobody_listens(address, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.notify("READY=1", "STATUS=x")


def test_a_supervisor_that_does_not_read_stops_nothing(supervisor, monkeypatch):
    monkeypatch.setattr(notify, "SEND_TIMEOUT_S", 0.001)
    for _ in range(600):  # more than any queue of datagrams here holds
        notify.notify("STATUS=" + "x" * 700)
    assert supervisor.recv(8192).startswith(b"STATUS=xxx")


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("300000000", None, 300.0),
        ("1500000", "own", 1.5),
        ("300000000", "1", None),
        ("300000000", "x", None),
        (None, None, None),
        ("", None, None),
        ("0", None, None),
        ("-5", None, None),
        ("soon", None, None),
        ("²", None, None),
        ("9" * 5000, None, None),
    ],
    ids=lambda value: str(value)[:10],
)
def test_watchdog_interval(usec, pid, expected, monkeypatch):
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert notify.watchdog_interval_s() == expected


def test_the_journal_is_known_by_the_stream_of_stderr(monkeypatch):
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    assert notify.under_journald()
    for other in ("", "x", f"{stderr.st_dev}:{stderr.st_ino + 1}"):  # inherited, and stderr sent elsewhere
        monkeypatch.setenv("JOURNAL_STREAM", other)
        assert not notify.under_journald()
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not notify.under_journald()


# The unit's text


def exec_start(unit: str) -> str:
    (line,) = [line for line in re.split(r"[\n\r]", unit) if line.startswith("ExecStart=")]
    return line.removeprefix("ExecStart=:")


def as_systemd_reads(line: str) -> list[str]:
    """Words, quotes and escapes of systemd.syntax(7), "%%" of systemd.unit(5): enough to read back what we write."""
    escapes = {"\\": b"\\", '"': b'"'}

    def unescape(match: re.Match[str]) -> bytes:
        return bytes([int(match[1], 16)]) if match[1] else escapes[match[2]] if match[2] else os.fsencode(match[0])

    words = re.findall(r'"((?:\\.|[^"\\])*)"|(\S+)', line)
    assert " ".join(plain or f'"{quoted}"' for quoted, plain in words) == line
    character = re.compile(r'\\x([0-9a-f]{2})|\\(["\\])|[^\\]')
    raw = [plain.encode() or b"".join(map(unescape, character.finditer(quoted))) for quoted, plain in words]
    assert not any(re.search(rb"(?<!%)(%%)*%(?!%)", word) for word in raw), "a specifier"
    return [os.fsdecode(word.replace(b"%%", b"%")) for word in raw]


def test_a_unit_without_options():
    assert exec_start(service.unit_text(["/usr/bin/indexer"])) == "/usr/bin/indexer watch"


def test_odd_paths_read_back_as_they_were():
    command = ["/a $b 50%/python", "-m", "indexer"]
    unit = service.unit_text(command, config=Path("/my conf.toml"), db=ODD, roots=[Path("/;"), Path("/m")])
    assert as_systemd_reads(exec_start(unit)) == [
        *command,
        "watch",
        "--config",
        "/my conf.toml",
        "--db",
        str(ODD),
        "/;",
        "/m",
    ]
    unit.encode()  # systemd skips a line that is not UTF-8


@given(st.binary(max_size=30))
def test_any_path_reads_back_as_it_was(name):
    path = Path(os.fsdecode(b"/" + name.replace(b"\0", b"%")))
    unit = service.unit_text(["/usr/bin/indexer"], db=path)
    assert as_systemd_reads(exec_start(unit))[-1] == str(path)
    unit.encode()


def test_relative_paths_are_those_of_the_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exec_start(service.unit_text(["bin/indexer"], db=Path("l.db"), roots=[Path("m")])) == (
        f"{tmp_path}/bin/indexer watch --db {tmp_path}/l.db {tmp_path}/m"
    )


@pytest.mark.parametrize("program", ["/o'brien/indexer", '/a"b/indexer', "/a\\b/indexer", "/a\nb/indexer"])
def test_a_program_that_systemd_cannot_start_is_refused(program):
    with pytest.raises(ConfigError, match="systemd starts no program") as refused:
        service.unit_text([program])
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_itself_reads_the_unit_as_meant(tmp_path):
    program = tmp_path / "we $ird 50%h é" / "indexer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "indexer.service").write_text(service.unit_text([str(program)], db=ODD, roots=[Path("/;")]))

    def verify(**environ: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            ["systemd-analyze", "verify", "--user", "--man=no", str(tmp_path / "indexer.service")],
            check=False,
            capture_output=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), **environ},
        )

    plain = verify()
    assert (plain.returncode, plain.stderr) == (0, b"")  # unknown keys are warnings, not failures
    dump = verify(SYSTEMD_LOG_LEVEL="debug").stdout
    command = re.search(rb"-> ExecStart:\s*Command Line: ([^\n]*)\n", dump)
    if command is None:
        pytest.skip("this systemd does not print the units that it verifies")
    words = re.findall(rb'"((?:\\.|[^"\\])*)"|(\S+)', command[1])
    assert [plain or re.sub(rb"\\(\d{3}|.)", _c_escape, quoted) for quoted, plain in words] == [
        os.fsencode(program),
        b"watch",
        b"--db",
        os.fsencode(ODD),
        b"/;",
    ]


def _c_escape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code, 8)]) if len(code) == 3 else {b"t": b"\t", b"n": b"\n", b"r": b"\r"}.get(code, code)


# Installing

SHOWN = """\
FragmentPath=/home/x/.config/systemd/user/indexer.service
UnitFileState=enabled
ActiveState=active
SubState=running
Result=success
NRestarts=2
MainPID=4321
MemoryCurrent=512000000
ActiveEnterTimestamp=Mon 2025-01-27 10:00:00 UTC
StatusText=42 files = all
"""
ABSENT = """\
FragmentPath=
UnitFileState=
ActiveState=inactive
SubState=dead
Result=success
NRestarts=0
MainPID=0
MemoryCurrent=[not set]
ActiveEnterTimestamp=
"""
FAKE = """\
#!/bin/sh
echo "$*" >> "$FAKE_DIR/log"
case "$*" in *" $FAKE_FAIL"*) [ -n "$FAKE_FAIL" ] && { cat "$FAKE_DIR/stderr" >&2; exit 1; };; esac
case "$*" in *FragmentPath*) cat "$FAKE_DIR/shown";; esac
exit 0
"""


class Fake:
    """A systemctl that writes down what it is asked and fails on request."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        (folder / "systemctl").write_text(FAKE)
        (folder / "systemctl").chmod(0o755)
        (folder / "log").touch()
        monkeypatch.setenv("FAKE_DIR", str(folder))
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))

    def fails(self, verb: str, stderr: str) -> None:
        self.monkeypatch.setenv("FAKE_FAIL", verb)
        (self.folder / "stderr").write_text(stderr)

    def asked(self) -> list[str]:
        """What it was asked since the last time, the question whether it is there left out."""
        lines = (self.folder / "log").read_text().splitlines()
        (self.folder / "log").write_text("")
        assert all(line.startswith("--user --quiet --no-pager ") for line in lines)
        questions = [line.removeprefix("--user --quiet --no-pager ") for line in lines]
        return [question for question in questions if not question.startswith("show --property=Version")]


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    return Fake(tmp_path, monkeypatch)


INDEXER = ["/usr/bin/indexer"]


def test_install_writes_enables_and_starts(systemctl):
    result = service.install(INDEXER, db=Path("/l.db"))
    path = Path(os.environ["XDG_CONFIG_HOME"]) / "systemd/user/indexer.service"
    assert path.read_text() == service.unit_text(INDEXER, db=Path("/l.db"))
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["indexer.service"]
    assert systemctl.asked() == ["daemon-reload", "enable --now indexer.service"]
    assert result["unit"] == str(path)
    assert result["changed"]
    assert "loginctl enable-linger" in service.to_text(result)


@pytest.mark.parametrize("configured", [None, "", "relative/folder"])
def test_the_usual_folder_is_in_the_home(configured, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    if configured is not None:
        monkeypatch.setenv("XDG_CONFIG_HOME", configured)
    assert service.unit_path() == Path.home() / ".config/systemd/user/indexer.service"


def test_a_second_install_changes_and_restarts_nothing(systemctl):
    service.install(INDEXER)
    before = service.unit_path().stat()
    systemctl.asked()
    assert not service.install(INDEXER)["changed"]
    after = service.unit_path().stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert systemctl.asked() == ["daemon-reload", "enable --now indexer.service"]


def test_an_install_with_other_options_restarts_what_runs(systemctl):
    service.install(INDEXER)
    systemctl.asked()
    assert service.install(INDEXER, db=Path("/other.db"))["changed"]
    assert "/other.db" in service.unit_path().read_text()
    assert systemctl.asked() == ["daemon-reload", "enable indexer.service", "restart indexer.service"]


def test_remove_stops_and_deletes_and_may_be_repeated(systemctl):
    service.install(INDEXER)
    systemctl.asked()
    assert service.remove() == {"unit": str(service.unit_path()), "removed": True}
    assert not service.unit_path().exists()
    assert systemctl.asked() == ["disable --now indexer.service", "daemon-reload"]
    assert not service.remove()["removed"]
    assert systemctl.asked() == []


@pytest.mark.parametrize("act", [service.install, service.remove])
@pytest.mark.parametrize("content", [b"[Service]\nExecStart=/usr/bin/other\n", b"", b"\xff\xfe"])
def test_a_unit_that_is_not_ours_is_left_alone(act, content, systemctl):
    path = service.unit_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path)) + ": was not written by indexer"):
        act()
    assert path.read_bytes() == content
    assert systemctl.asked() == []


@pytest.mark.parametrize("target", ["/dev/null", "nowhere"])  # masked; dangling
def test_a_link_in_the_units_place_is_left_alone(target, systemctl):
    path = service.unit_path()
    path.parent.mkdir(parents=True)
    path.symlink_to(target)
    for act in (service.install, service.remove):
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            act()
    assert str(path.readlink()) == target


def test_a_folder_in_the_units_place_is_one_line(systemctl):
    service.unit_path().mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"indexer\.service: cannot be read"):
        service.install(INDEXER)


def test_a_failed_write_leaves_the_old_unit_and_nothing_else(systemctl, monkeypatch):
    service.install(INDEXER)
    before = service.unit_path().read_text()
    systemctl.asked()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ConfigError, match=r"indexer\.service: cannot be written \(No space left on device\)"):
        service.install(INDEXER, db=Path("/other.db"))
    assert service.unit_path().read_text() == before
    assert [p.name for p in service.unit_path().parent.iterdir()] == ["indexer.service"]
    assert systemctl.asked() == []


def without_systemctl(fake: Fake) -> None:
    fake.monkeypatch.setenv("PATH", "/nowhere")


def without_session(fake: Fake) -> None:
    fake.monkeypatch.delenv("XDG_RUNTIME_DIR")
    fake.monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)


def without_manager(fake: Fake) -> None:
    fake.fails("show", "Failed to connect to bus: No medium found\n")


@pytest.mark.parametrize("hinder", [without_systemctl, without_session, without_manager])
def test_without_a_user_manager_nothing_is_written_and_the_way_out_is_said(hinder, systemctl):
    hinder(systemctl)
    for act in (service.install, service.status):
        with pytest.raises(ConfigError, match="`indexer watch` in the foreground or under another") as failed:
            act()
        assert "\n" not in str(failed.value)
    assert not service.unit_path().exists()


def test_a_service_that_does_not_start_says_where_to_look(systemctl):
    systemctl.fails("enable", "Job for indexer.service failed because a timeout was exceeded.\nSee more\n")
    with pytest.raises(ConfigError, match=r"failed because a timeout was exceeded\.; `journalctl --user -u indexer`"):
        service.install(INDEXER)


def test_a_service_that_cannot_be_stopped_keeps_its_unit(systemctl):
    service.install(INDEXER)
    systemctl.fails("disable", "")
    with pytest.raises(ConfigError, match="exit code 1"):
        service.remove()
    assert service.unit_path().exists()


def test_status_of_a_running_service(systemctl):
    (systemctl.folder / "shown").write_text(SHOWN)
    found = service.status()
    assert found == {
        "installed": "/home/x/.config/systemd/user/indexer.service",
        "enabled": True,
        "active": True,
        "state": "active (running)",
        "result": "success",
        "restarts": 2,
        "main_pid": 4321,
        "memory_bytes": 512_000_000,
        "since": "2025-01-27T10:00:00Z",
        "says": "42 files = all",
    }
    text = service.to_text(found)
    assert "memory: 512 MB\n" in text
    assert "main pid: 4321\n" in text


@pytest.mark.parametrize("memory", ["[not set]", str(2**64 - 1), ""])
def test_status_where_nothing_is_installed(memory, systemctl):
    (systemctl.folder / "shown").write_text(ABSENT.replace("[not set]", memory))
    found = service.status()
    assert [found[key] for key in ("installed", "enabled", "active", "main_pid", "memory_bytes", "since", "says")] == [
        None,
        False,
        False,
        None,
        None,
        None,
        None,
    ]
    assert service.to_text(found).splitlines() == [
        "enabled: no",
        "active: no",
        "state: inactive (dead)",
        "result: success",
        "restarts: 0",
    ]


def test_the_program_of_this_python_is_what_gets_started(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert service.own_command() == [str(tmp_path / "python"), "-P", "-m", "indexer"]
    (tmp_path / "indexer").touch(mode=0o755)
    assert service.own_command() == [str(tmp_path / "indexer")]
