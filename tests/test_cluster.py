"""A scan whose heavy steps run on a real Dask cluster on loopback: its library is that of a local scan.

Also admission, paths, and that Dask is not imported where no cluster is asked for.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer import __version__
from indexer.cluster.admission import Admission
from indexer.cluster.settings import PathMap, is_open, resources, scheduler_address, security
from indexer.cluster.wire import pack, unpack
from indexer.cluster.worker import prove, same_content, work
from indexer.config import Settings, from_json, load_settings, to_json
from indexer.errors import ConfigError
from indexer.files.audio.identity import Stat
from tests.helpers.clusters import until
from tests.helpers.contents import assert_same, scanned_contents
from tests.helpers.daemons import Watching
from tests.helpers.synth import write_audio

needs_dask = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("distributed") is None,
    reason="Dask is not installed: pip install 'edm-indexer[cluster]'",
)


# ---- settings, paths, admission: no cluster


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/mnt/music", b"/data/music"),
        ("/mnt/music/a b/c.mp3", b"/data/music/a b/c.mp3"),
        ("/mnt/music/inner/x", b"/fast/x"),
        ("/mnt/music/../music/x", b"/data/music/x"),
    ],
)
def test_paths_are_translated_by_the_innermost_mapped_folder(path, there):
    paths = PathMap({"/mnt/music": "/data/music/", "/mnt/music/inner": "/fast"})
    assert paths.there(os.fsencode(path)) == there
    assert PathMap({}).there(os.fsencode(path)) == os.fsencode(path)


@pytest.mark.parametrize("path", [b"/mnt/musical/x", b"/mnt", b"/etc/passwd", b"/mnt/music/../secret"])
def test_a_path_outside_the_mapped_roots_is_refused(path):
    with pytest.raises(ConfigError, match="outside the folders"):
        PathMap({"/mnt/music": "/data/music"}).there(path)


PARTS = [
    b"",
    b".",
    b"..",
    b"...",
    b"music",
    b"musical",
    b"inner",
    b"a b",
    b"a=b",
    b"\xff",
    b"\n",
    b"~",
    b"$HOME",
    b"data",
]


@given(
    st.sampled_from([b"/mnt/music", b"/mnt/music/inner", b"/", b"//mnt/music", b"mnt/music", b""]),
    st.lists(st.sampled_from(PARTS), max_size=8),
)
def test_no_path_leads_out_of_the_mapped_folders(start, parts):
    """Whatever stands in a path, what the workers are asked for lies in a folder that --map names for them."""
    paths = PathMap({"/mnt/music": "/data/music", "/mnt/music/inner": "/fast"})
    path = b"/".join([start, *parts])
    try:
        there = paths.there(path)
    except ConfigError:
        return
    assert os.path.normpath(there) == there
    assert there in (b"/data/music", b"/fast") or there.startswith((b"/data/music/", b"/fast/"))
    here = os.path.normpath(path)
    assert os.path.relpath(there, b"/fast" if there.startswith(b"/fast") else b"/data/music") == os.path.relpath(
        here, b"/mnt/music/inner" if there.startswith(b"/fast") else b"/mnt/music"
    )


def test_the_root_can_be_mapped_from_and_to():
    assert PathMap({"/": "/data"}).there(b"/a/../b") == b"/data/b"
    assert PathMap({"/mnt": "/"}).there(b"/mnt/a") == b"/a"
    assert PathMap({"/": "/"}).there(b"/a") == b"/a"
    assert PathMap({"/mnt": "/data/../other"}).there(b"/mnt") == b"/other"


def test_a_map_goes_from_absolute_to_absolute():
    with pytest.raises(ConfigError, match="absolute"):
        PathMap({"music": "/data"})


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8786", "tcp://127.0.0.1", "http://x:1", "tcp://:1", "tcp://host:port", ""]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="tcp://HOST:PORT"):
        scheduler_address(Settings(cluster=address))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tcp://127.0.0.1:1", False),
        ("tcp://localhost:1", False),
        ("tcp://[::1]:1", False),
        ("tls://10.0.0.1:1", False),
        ("tcp://10.0.0.1:1", True),
        ("tcp://box.lan:1", True),
    ],
)
def test_a_connection_that_anybody_can_listen_to_is_known_as_such(address, expected):
    assert is_open(address) is expected


@needs_dask
def test_tls_needs_all_three_files_and_an_address_that_uses_them(tmp_path):
    pem = tmp_path / "x.pem"
    pem.write_text("x")
    with pytest.raises(ConfigError, match="write tls://"):
        security(Settings(cluster="tcp://h:1", tls_ca=pem))
    with pytest.raises(ConfigError, match="tls_key is missing"):
        security(Settings(cluster="tls://h:1", tls_ca=pem, tls_cert=pem))
    with pytest.raises(ConfigError, match="cannot be read"):
        security(Settings(cluster="tls://h:1", tls_ca=pem, tls_cert=pem, tls_key=tmp_path / "none"))
    assert security(Settings(cluster="tls://h:1", tls_ca=pem, tls_cert=pem, tls_key=pem)).require_encryption
    assert security(Settings(cluster="tcp://h:1")) is None


def test_the_settings_of_a_cluster_reach_the_working_process():
    settings = load_settings(
        None, {"cluster": "tls://h:1", "map": {"/a": "/b"}, "worker_resources": {"GPU": "1"}, "tls_ca": "/ca"}, {}
    )
    assert from_json(to_json(settings)) == settings
    assert resources(settings) == {"GPU": 1.0}
    with pytest.raises(ConfigError, match="no amount"):
        resources(Settings(worker_resources={"GPU": "many"}))


ENCODERS = {"id": "m2d"}


def answer(precision="fp32", gpu=None, vector=(1.0, 2.0, 3.0)):
    return {"gpu": gpu, "precision": {"id": precision}, "probe": {"id": np.asarray(vector, "<f4").tobytes()}}


def admission(precision="auto"):
    return Admission(ENCODERS, [b"/music"], precision=precision, device="auto")


def test_auto_is_the_precision_that_all_take_by_themselves_else_fp32():
    same = admission()
    assert same.decide([("a", answer("bf16")), ("b", answer("bf16"))]) == set()
    assert same.precision == "bf16"
    mixed = admission()
    assert mixed.decide([("a", answer("bf16")), ("b", answer("fp32"))]) == {"a"}
    assert mixed.precision == "fp32"


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (answer(), None),
        (answer(vector=(1.0, 2.0, 3.01)), None),
        (answer(vector=(3.0, 2.0, 1.0)), "another vector"),
        (answer(vector=(1.0, 2.0)), "another vector"),
        (answer(vector=(1.0, float("nan"), 1.0)), "another vector"),
        (answer("bf16"), "computes in bf16"),
    ],
)
def test_a_worker_that_computes_something_else_is_refused(theirs, reason):
    terms = admission("fp32")
    assert terms.objection("first", answer(), {}) is None
    objection = terms.objection("second", theirs, {})
    assert objection is None if reason is None else reason in objection


def test_two_workers_on_one_gpu_are_told_how_to_have_one_each():
    assert "CUDA_VISIBLE_DEVICES" in admission("fp32").objection("b", answer(gpu="GPU-1"), {"a": answer(gpu="GPU-1")})
    assert admission("fp32").objection("b", answer(gpu="GPU-1"), {"a": answer(gpu="GPU-2")}) is None


def wanted(**changes):
    return {"version": __version__, "encoders": {}, "precision": "auto", "device": None, "roots": [], **changes}


@needs_dask
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "0.0.7"}, "0.0.7: install the same version"),
        ({"roots": [b"/no/such/folder"]}, "does not see /no/such/folder"),
        ({"encoders": {"0" * 64: "m2d_x"}}, "has no model m2d_x"),
        ({"device": "cuda", "encoders": {"0" * 64: "x"}}, "has no model"),
        ({"precision": None}, ""),
    ],
)
def test_a_worker_says_why_it_does_not_agree(changes, reason):
    proof = prove(wanted(**changes))
    assert proof["version"] == __version__
    assert reason in (proof["refused"] or "")


@needs_dask
def test_work_without_a_proof_is_not_done():
    assert unpack(work("made up", "inspect", pack([(b"/x", 1, 1, None, False)]))) == {"unknown": True}


@pytest.mark.parametrize(
    ("size", "mtime_ns", "same"),
    [
        (5, 1_700_000_000_123_456_789, True),
        (5, 1_700_000_000_123_456_700, True),
        (5, 1_700_000_000_000_000_000, True),
        (6, 1_700_000_000_123_456_789, False),
        (5, 1_700_000_001_000_000_000, False),
        (5, 1_700_000_000_123_999_999, False),
    ],
)
def test_a_file_is_the_same_on_two_machines_by_size_and_time_as_far_as_the_mount_keeps_it(size, mtime_ns, same):
    assert same_content(Stat(1, 2, 5, 1_700_000_000_123_456_789), Stat(3, 4, size, mtime_ns)) is same


BLOCKED = """
import sys
sys.modules["distributed"] = sys.modules["dask"] = None  # importing them fails
sys.argv = ["indexer", *sys.argv[1:]]
from indexer.cli.main import main
main()
"""


def test_without_dask_everything_works_but_the_cluster(quick_cli, tmp_path):
    (tmp_path / "music").mkdir()
    write_audio(tmp_path / "music" / "a.wav", "wav", 1.0)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", BLOCKED, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **quick_cli.environ},
        )

    plain = run("scan", tmp_path / "music", "--json")
    assert plain.returncode == 0, plain.stderr
    assert json.loads(plain.stdout)["embedded"] == 1
    asked = run("scan", tmp_path / "music", "--force", "--cluster", "tcp://127.0.0.1:1")
    assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
    assert "pip install 'edm-indexer[cluster]'" in asked.stderr


def test_a_scan_without_a_cluster_never_imports_dask():
    code = (
        "import sys, indexer.scan.run, indexer.watch.runner, indexer.cli.main, indexer.watch.daemon,"
        " indexer.files.children.child;"
        " print([m for m in ('dask', 'distributed', 'indexer.cluster.executor') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


# ---- a real cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'edm-indexer[cluster]'")
    from tests.helpers.clusters import DaskCluster

    with DaskCluster(tmp_path_factory.mktemp("cluster"), 2) as cluster:
        yield cluster


@pytest.fixture
def library(tmp_path, music_folder):
    """Six recordings, a copy, a text, a damaged file and one that is too short."""
    shutil.copy(music_folder / "mp3.mp3", music_folder / "album" / "copy.mp3")
    (music_folder / "text.mp3").write_bytes(b"not music at all" * 100)
    (music_folder / "cut.flac").write_bytes((music_folder / "flac.flac").read_bytes()[:2000])
    write_audio(music_folder / "short.wav", "wav", 0.01)
    return music_folder


def test_a_scan_on_a_cluster_makes_the_same_library_as_a_local_one(cluster, quick_cli, library, tmp_path):
    local = quick_cli.json("scan", library, "--no-tags", "--db", tmp_path / "local.db", code=1)
    there = quick_cli.json("scan", library, "--no-tags", "--cluster", cluster.address, code=1)
    assert_same(quick_cli.db, tmp_path / "local.db")
    counted = ("files", "embedded", "cached", "classified", "unreadable", "unsupported", "failed")
    assert {key: there[key] for key in counted} == {key: local[key] for key in counted}
    assert {w["state"] for w in there["workers"]} == {"ready"}
    assert sum(w["embedded"] for w in there["workers"]) == there["embedded"] == 6
    assert there["engine"] == local["engine"] == "numpy"
    assert "reading on the workers" in there["busy"]
    assert (
        quick_cli.json("scan", library, "--no-tags", "--cluster", "tcp://127.0.0.1:1")["embedded"] == 0
    )  # nothing to do: no worker is asked
    with_tags = quick_cli.json("scan", library, "--cluster", cluster.address)
    assert with_tags["tags_written"] > 0  # the writing is done here


def test_a_few_units_are_taken_on_a_cluster_as_here(cluster, quick_cli, tmp_path):
    (tmp_path / "long").mkdir()
    write_audio(tmp_path / "long" / "a.flac", "flac", 31.0)
    quick_cli("scan", tmp_path / "long", "--no-tags", "--units", "2", "--db", tmp_path / "local.db")
    assert (
        quick_cli.json("scan", tmp_path / "long", "--no-tags", "--units", "2", "--cluster", cluster.address)["embedded"]
        == 1
    )
    assert_same(quick_cli.db, tmp_path / "local.db")
    assert [row[2] for row in scanned_contents(quick_cli.db)[1]] == [2]


def test_only_workers_that_offer_the_resource_embed_and_the_others_read(cluster, quick_cli, library, tmp_path):
    quick_cli("scan", library, "--no-tags", "--db", tmp_path / "local.db", code=1)
    cluster.start_worker("gpu", "--resources", "GPU=1")
    try:
        until(lambda: len(quick_cli.json("cluster", "check", "--cluster", cluster.address)["workers"]) == 3)
        found = quick_cli.json(
            "scan", library, "--no-tags", "--cluster", cluster.address, "--worker-resources", "GPU=1", code=1
        )
    finally:
        cluster.kill_worker("gpu")
        cluster.workers.pop("gpu").wait()
    assert_same(quick_cli.db, tmp_path / "local.db")
    assert {w["name"]: w["embedded"] for w in found["workers"]} == {"w0": 0, "w1": 0, "gpu": 6}
    assert sum(w["inspected"] for w in found["workers"] if w["name"] != "gpu") > 0


def test_check_tells_of_every_worker(cluster, quick_cli, library):
    found = quick_cli.json("cluster", "check", library, "--cluster", cluster.address)
    assert (found["agree"], found["encoder"], set(found["precision"].values())) == (2, "rhythm", {"fp64"})
    assert [w["name"] for w in found["workers"]] == ["w0", "w1"] or [w["name"] for w in found["workers"]] == [
        "w1",
        "w0",
    ]
    text = quick_cli("cluster", "check", library, "--cluster", cluster.address).stdout
    assert text.count("agrees; cpu, fp64, numpy") == 2
    assert "2 workers of 2 agree" in text
    refused = quick_cli(
        "cluster", "check", library, "--cluster", cluster.address, "--map", f"{library}=/no/such/place", code=1
    )
    assert refused.stdout.count("does not see /no/such/place") == 2
    nobody = quick_cli("scan", library, "--cluster", cluster.address, "--map", f"{library}=/no/such/place", code=2)
    assert "no worker agrees" in nobody.stderr
    assert "--map" in nobody.stderr


def test_a_mapped_folder_is_read_where_the_workers_see_it(cluster, quick_cli, library, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    library.rename(elsewhere)
    library.mkdir()
    for path in elsewhere.rglob("*"):  # the same names, other inodes, no sound: a worker that reads here fails
        if path.is_dir():
            (library / path.relative_to(elsewhere)).mkdir()
        else:
            copy = library / path.relative_to(elsewhere)
            copy.write_bytes(bytes(path.stat().st_size))
            os.utime(copy, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    found = quick_cli.json(
        "scan", library, "--no-tags", "--cluster", cluster.address, "--map", f"{library}={elsewhere}", code=1
    )
    assert found["embedded"] == 6
    assert (
        quick_cli.json("scan", library, "--no-tags")["failed"] == 0
    )  # the stats are this machine's: nothing has changed
    outside = quick_cli("scan", library, "--cluster", cluster.address, "--map", f"{elsewhere}=/data", code=2)
    assert "outside the folders" in outside.stderr


def test_another_state_of_a_file_on_the_worker_is_no_answer(cluster, quick_cli, music_folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(music_folder, elsewhere)  # without the times of the files inside
    for path in elsewhere.rglob("*"):
        os.utime(path, (1, 1))
    found = quick_cli.json(
        "scan", music_folder / "mp3.mp3", "--cluster", cluster.address, "--map", f"{music_folder}={elsewhere}", code=1
    )
    assert "another state of it" in found["failures"][0]["reason"]
    assert quick_cli.json("scan", music_folder / "mp3.mp3")["embedded"] == 1


def test_no_scheduler_is_said_in_one_line(quick_cli, music_folder):
    found = quick_cli(
        "scan", music_folder, "--cluster", "tcp://127.0.0.1:1", code=2, env={"INDEXER_CLUSTER_WAIT_S": "0.5"}
    )
    assert "no scheduler answers" in found.stderr


def test_weights_come_from_the_workers_own_folder(cluster, cli, music_folder, tmp_path):
    """Neither the weights nor their path travel: a worker without the model is refused, and told how to get it."""
    refused = cli("scan", music_folder, "--cluster", cluster.address, code=2)
    assert "has no model" in refused.stderr
    cli("models", "add", cli.model, env={"INDEXER_MODELS": cluster.environ["INDEXER_MODELS"]})
    there = cli.json("scan", music_folder, "--no-tags", "--cluster", cluster.address, "--precision", "fp32")
    assert (there["embedded"], there["precision"]) == (6, "fp32")
    cli("scan", music_folder, "--no-tags", "--precision", "fp32", "--db", tmp_path / "local.db")
    assert_same(cli.db, tmp_path / "local.db", tolerance=1e-3)


def test_watch_reads_what_arrives_on_the_cluster(cluster, quick_cli, tmp_path):
    (tmp_path / "music").mkdir()
    with Watching(quick_cli, tmp_path / "music", cluster=cluster.address, write_tags="off") as watching:
        watching.until_idle()
        path = write_audio(tmp_path / "music" / "a.wav", "wav", 1.0)
        watching.until(watching.embeddings)
        assert watching.states() == {str(path): "ready"}
        watching.until_idle()
    wrong = quick_cli("watch", tmp_path / "music", "--cluster", "nowhere", code=2)
    assert "tcp://HOST:PORT" in wrong.stderr
