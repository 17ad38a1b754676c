"""What a cluster survives: killed workers, a file that kills them, a scheduler that goes and comes back, a killed scan.

Also connections of strangers. Real processes on loopback; afterwards the library is as a local scan makes it.
"""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from tests.helpers.clusters import DaskCluster, Hosts, until
from tests.helpers.contents import assert_same
from tests.helpers.synth import write_audio

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'edm-indexer[cluster]'")


TRACKS = 24


@pytest.fixture
def tracks(tmp_path):
    """Twenty-four short recordings and four copies."""
    folder = tmp_path / "music"
    folder.mkdir()
    for n in range(TRACKS):
        write_audio(folder / f"{n:02}.flac", "flac", 0.7, seed=n)
    for n in range(4):
        shutil.copy(folder / f"{n:02}.flac", folder / f"copy {n}.flac")
    return folder


def embedded(cli):
    if not cli.db.exists():
        return 0
    conn = sqlite3.connect(f"file:{cli.db}?mode=ro", uri=True)
    try:
        return conn.execute("SELECT count(*) FROM embeddings").fetchone()[0]
    except sqlite3.OperationalError:  # not made yet
        return 0
    finally:
        conn.close()


def assert_sound(cli):
    conn = sqlite3.connect(cli.db)
    assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
    conn.close()


@pytest.mark.slow_first
def test_three_workers_killed_at_random_make_the_library_of_a_local_scan(quick_cli, tracks, tmp_path):
    quick_cli("scan", tracks, "--no-tags", "--db", tmp_path / "local.db")
    rng = random.Random(7)
    with DaskCluster(tmp_path / "cluster", 3, nanny=True, bend={"delay_s": 0.15}) as cluster:
        scan = quick_cli.process("scan", tracks, "--no-tags", "--cluster", cluster.address)
        until(lambda: embedded(quick_cli) >= 2)
        for _ in range(3):
            cluster.kill_worker(rng.choice(sorted(cluster.workers)))
            time.sleep(rng.uniform(0.2, 1.5))
        _, err = scan.communicate(timeout=60)
    assert scan.returncode == 0, err
    assert "is gone; the" in err
    assert_same(quick_cli.db, tmp_path / "local.db")
    assert_sound(quick_cli)


LIES = {"l0": "no proof", "l1": "too few", "l2": "exit", "l3": "no bytes", "l4": "swapped"}


def test_a_worker_that_answers_wrongly_loses_its_place_and_the_scan_goes_on(quick_cli, tracks, tmp_path):
    quick_cli("scan", tracks, "--no-tags", "--db", tmp_path / "local.db")
    with DaskCluster(tmp_path / "cluster", 1, bend={"lies": LIES, "delay_s": 0.1}) as cluster:
        for name in LIES:
            cluster.start_worker(name)
        logs = [tmp_path / "cluster" / f"{name}.log" for name in ("w0", *LIES)]
        until(lambda: all("Registered to" in log.read_text() for log in logs))
        found = quick_cli("scan", tracks, "--no-tags", "--json", "--cluster", cluster.address)
        states = {w["name"]: w["state"] for w in json.loads(found.stdout)["workers"]}
    assert states == {"w0": "ready", **dict.fromkeys(LIES, "refused")}
    assert found.stderr.count("answers what it should not") == 5
    assert_same(quick_cli.db, tmp_path / "local.db")


def test_a_file_that_kills_its_worker_twice_is_quarantined_and_no_other_is_blamed(quick_cli, tracks, tmp_path):
    (tracks / "05.flac").rename(tracks / "05 killer.flac")
    with DaskCluster(tmp_path / "cluster", 2, nanny=True, bend={"kill": "killer"}) as cluster:
        found = quick_cli.json("scan", tracks, "--no-tags", "--cluster", cluster.address, code=1)
        assert [failure["path"] for failure in found["failures"]] == [str(tracks / "05 killer.flac")]
        assert "killed the worker, again; left alone until it changes" in found["failures"][0]["reason"]
        assert (found["embedded"], found["unreadable"]) == (TRACKS - 1, 1)
        again = quick_cli.json("scan", tracks, "--no-tags", "--cluster", cluster.address)
    assert (again["failed"], again["embedded"]) == (0, 0)  # it is not given to anybody any more


@pytest.mark.slow_first
def test_a_scheduler_that_comes_back_goes_on_and_one_that_does_not_is_said(quick_cli, tracks, tmp_path):
    with DaskCluster(tmp_path / "cluster", 2, bend={"delay_s": 0.15}) as cluster:
        scan = quick_cli.process("scan", tracks, "--no-tags", "--cluster", cluster.address)
        until(lambda: embedded(quick_cli) >= 2)
        for process in [cluster.scheduler, *cluster.workers.values()]:  # workers end with their scheduler
            process.kill()
            process.wait()
        cluster.start_scheduler()
        for name in ("w3", "w4"):
            cluster.start_worker(name)
        _, err = scan.communicate(timeout=60)
        assert scan.returncode == 0, err
        assert "the scheduler is gone; waiting up to 300 s" in err
        assert "the scheduler is back" in err
        assert embedded(quick_cli) == TRACKS

        (tracks / "new").mkdir()
        for n in range(6):
            write_audio(tracks / "new" / f"{n}.flac", "flac", 0.7, seed=100 + n)
        scan = quick_cli.process(
            "scan", tracks, "--no-tags", "--cluster", cluster.address, env_extra={"INDEXER_CLUSTER_WAIT_S": "2"}
        )
        until(lambda: embedded(quick_cli) >= TRACKS + 1)
        cluster.scheduler.send_signal(signal.SIGKILL)
        _, err = scan.communicate(timeout=60)
    assert scan.returncode == 1, err
    assert "did not come back within 2 s; what is done is stored, and the next scan goes on" in err
    kept = embedded(quick_cli)
    assert kept >= TRACKS + 1
    assert quick_cli.json("scan", tracks, "--no-tags")["embedded"] == TRACKS + 6 - kept


@pytest.fixture
def hosts():
    """Two hosts beside this one, in network namespaces."""
    hosts = Hosts("w0", "w1")
    try:
        hosts.__enter__()
    except (OSError, subprocess.CalledProcessError) as e:
        hosts.__exit__()
        pytest.skip(f"network namespaces cannot be made here ({e})")
    yield hosts
    hosts.__exit__()


@pytest.mark.slow_first
def test_a_host_whose_cable_is_pulled_in_the_middle_costs_its_files_nothing(quick_cli, tracks, tmp_path, hosts):
    """Two workers on hosts of their own; one falls silent, which no connection reports before its timeout."""
    quick_cli("scan", tracks, "--no-tags", "--db", tmp_path / "local.db")
    with DaskCluster(
        tmp_path / "cluster", 2, hosts=hosts, bend={"delay_s": 0.3}, DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP="11s"
    ) as cluster:
        scan = subprocess.Popen(
            [
                *hosts.command("hub"),
                sys.executable,
                "-m",
                "indexer",
                "scan",
                str(tracks),
                "--no-tags",
                "--json",
                "--cluster",
                cluster.address,
            ],
            env={**cluster.environ, **quick_cli.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: embedded(quick_cli) >= 4)
        hosts.unplug("w1")
        out, err = scan.communicate(timeout=120)
    assert scan.returncode == 0, err
    found = json.loads(out)
    assert "is not encrypted" in err or "anybody" in err or "TLS" in err  # the hub's address is not this machine's own
    assert_same(quick_cli.db, tmp_path / "local.db")
    assert_sound(quick_cli)
    assert {w["name"]: w["state"] for w in found["workers"]} == {"w0": "ready", "w1": "gone"}


def test_a_scan_that_is_killed_leaves_a_sound_library_and_the_next_one_goes_on(quick_cli, tracks, tmp_path):
    quick_cli("scan", tracks, "--no-tags", "--db", tmp_path / "local.db")
    with DaskCluster(tmp_path / "cluster", 2, bend={"delay_s": 0.3}) as cluster:
        scan = quick_cli.process("scan", tracks, "--no-tags", "--cluster", cluster.address)
        until(lambda: embedded(quick_cli) >= 3)
        scan.kill()
        scan.communicate()
        kept = embedded(quick_cli)
        assert kept < TRACKS
        assert_sound(quick_cli)
        found = quick_cli.json("scan", tracks, "--no-tags", "--cluster", cluster.address)
        assert found["embedded"] == TRACKS - kept  # nothing twice, nothing lost
        stopped = quick_cli.process("scan", tracks, "--no-tags", "--force", "--cluster", cluster.address)
        time.sleep(2)
        stopped.send_signal(signal.SIGINT)
        _, err = stopped.communicate(timeout=15)
        assert stopped.returncode == 130, err
    assert_same(quick_cli.db, tmp_path / "local.db")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and one certificate for everybody, made as docs/cluster.md says: of a host that is none of these.

    Also a stranger's, with the right host in the certificate.
    """
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name, where in (("", "DNS:elsewhere.example"), ("stranger-", "IP:127.0.0.1")):
        authority = ("-CA", f"{name}ca.pem", "-CAkey", f"{name}ca.key", "-CAcreateserial")
        openssl("req", "-x509", *key, "-days", "3650", "-subj", f"/CN={name}authority",
                "-keyout", f"{name}ca.key", "-out", f"{name}ca.pem")  # fmt: skip
        openssl("req", *key, "-subj", "/CN=indexer", "-addext", f"subjectAltName={where}",
                "-keyout", f"{name}node.key", "-out", f"{name}node.csr")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}node.csr", *authority, "-days", "825", "-copy_extensions", "copy",
                "-out", f"{name}node.pem")  # fmt: skip
    return folder


def tls(folder, name=""):
    return (
        "--tls-ca",
        f"{folder}/ca.pem",
        "--tls-cert",
        f"{folder}/{name}node.pem",
        "--tls-key",
        f"{folder}/{name}node.key",
    )


def dask_tls(folder, name=""):
    files = {"--tls-ca-file": "ca.pem", "--tls-cert": "node.pem", "--tls-key": "node.key"}
    return tuple(part for flag, file in files.items() for part in (flag, f"{folder}/{name}{file}"))


def test_with_tls_only_who_has_a_certificate_gets_in(quick_cli, music_folder, tmp_path, certificates):
    with DaskCluster(tmp_path / "cluster", 1, protocol="tls", security=dask_tls(certificates)) as cluster:
        found = quick_cli.json("scan", music_folder, "--no-tags", "--cluster", cluster.address, *tls(certificates))
        assert found["embedded"] == 6
        (music_folder / "mp3.mp3").touch()
        wait = {"INDEXER_CLUSTER_WAIT_S": "1"}
        stranger = quick_cli(
            "scan", music_folder, "--cluster", cluster.address, *tls(certificates, "stranger-"), code=2, env=wait
        )
        assert "no scheduler answers" in stranger.stderr
        plain = quick_cli("scan", music_folder, "--cluster", cluster.address.replace("tls", "tcp"), code=2, env=wait)
        assert "no scheduler answers" in plain.stderr


def test_the_authority_counts_and_the_host_in_a_certificate_does_not(quick_cli, music_folder, tmp_path, certificates):
    """docs/cluster.md says so: a wrong name of our authority gets in, and a stranger with the right name does not."""
    wait = {"INDEXER_CLUSTER_WAIT_S": "1"}
    for name, expected in (("", "no worker is connected"), ("stranger-", "no scheduler answers")):
        security = dask_tls(certificates, name)
        with DaskCluster(tmp_path / f"{name}cluster", 0, protocol="tls", security=security) as cluster:
            log = tmp_path / f"{name}cluster" / "scheduler.log"
            until(lambda log=log: "Scheduler at" in log.read_text())
            found = quick_cli("scan", music_folder, "--cluster", cluster.address, *tls(certificates), code=2, env=wait)
        assert expected in found.stderr
