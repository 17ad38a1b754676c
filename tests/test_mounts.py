"""Which mount a path is on, and which file systems send no events."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.files import mounts
from indexer.files.mounts import LastingInodes, mount_of, mounts_below, parse_mountinfo, watch_mode

# id parent major:minor root point options [optional fields] - type source super-options
MOUNTINFO = rb"""22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
23 27 0:22 / /sys rw,relatime shared:6 - sysfs sysfs rw
24 27 0:6 / /dev rw,nosuid,relatime shared:2 - devtmpfs udev rw,size=8153724k,nr_inodes=2038431,mode=755
26 24 0:24 / /dev/pts rw,relatime shared:3 - devpts devpts rw,gid=5,mode=620,ptmxmode=000
27 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
35 27 0:26 /@home /home rw,relatime shared:9 master:2 propagate_from:3 - btrfs /dev/nvme1n1 rw,ssd,subvol=/@home
36 35 259:2 /srv/music /home/ana/Music rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
40 27 0:40 / /mnt/nas rw,relatime shared:20 - nfs4 nas:/export/music rw,vers=4.2,addr=10.0.0.2
41 27 0:41 / /mnt/share rw,relatime - cifs //nas/Music\040Archive rw,vers=3.1.1
42 27 0:42 / /mnt/ssh rw,nosuid,nodev,relatime shared:22 - fuse.sshfs ana@box:/music rw,user_id=1000
43 27 8:17 / /media/ana/USB\040DRIVE\011\134\012x rw,nosuid - fuseblk /dev/sdb1 rw,user_id=0,blksize=4096
44 27 8:33 / /media/ana/stick\043\0401 rw,nosuid - vfat /dev/sdc1 rw,fmask=0022
45 27 0:45 / /auto rw,relatime - autofs systemd-1 rw,fd=45,pgrp=1
46 27 0:46 / /net rw,relatime - autofs systemd-1 rw,fd=46,pgrp=1
47 46 0:47 / /net rw,relatime - nfs server:/x rw
48 27 0:48 / /merged rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
49 27 0:49 / /pool rw,relatime - fuse.mergerfs 1:2:3 rw
50 27 0:50 / /vm rw,relatime - virtiofs music rw
51 27 0:51 / /p9 rw,relatime - 9p hostshare rw,trans=virtio
52 27 0:52 / /mnt/na rw,relatime - xfs /dev/sdd1 rw
53 27 0:53 / /empty rw,relatime -   rw
54 27 0:54 / /usb rw,relatime - ext4 /dev/sde1 rw
55 54 0:55 / /usb rw,relatime - exfat /dev/sdf1 rw
56 27 0:56 / /mnt/nas/local rw,relatime - ext4 /dev/sdg1 rw
57 27 0:57 / /cluster rw,relatime - ocfs2 /dev/sdh1 rw
58 27 0:58 / /smb rw,relatime - smb3 //nas/x rw
59 27 0:59 / /raw\377name rw,relatime - ext4 /dev/sdi1 rw

garbage
x 27 0:1 / /bad rw - nfs a rw
60 27 0:60 / /cut
"""
MOUNTS = parse_mountinfo(MOUNTINFO)


def test_escapes_optional_fields_and_bad_lines():
    by_id = {m.id: m for m in MOUNTS}
    assert len(MOUNTS) == 27
    assert by_id[43].point == b"/media/ana/USB DRIVE\t\\\nx"
    assert by_id[44].point == b"/media/ana/stick# 1"
    assert by_id[41].source == b"//nas/Music Archive"
    assert by_id[35].fs_type == "btrfs"
    assert by_id[59].point == b"/raw\xffname"
    assert by_id[53].fs_type == ""
    assert not {60} & by_id.keys()


@pytest.mark.parametrize(("path", "mount_id"), [
    (b"/", 27), (b"/srv", 27), (b"/home", 35), (b"/home/ana", 35), (b"/homeless", 27),
    (b"/home/ana/Music", 36), (b"/home/ana/Music/x/y.mp3", 36), (b"/home/ana/Music2", 35),
    (b"/mnt/na", 52), (b"/mnt/nas", 40), (b"/mnt/nas/local/x", 56), (b"/mnt/nasty", 27),
    (b"/usb/x", 55), (b"/net/x", 47), (b"/media/ana/USB DRIVE\t\\\nx/a", 43),
])  # fmt: skip
def test_the_longest_mount_point_wins_and_of_these_the_last(path, mount_id):
    found = mount_of(path, MOUNTS)
    assert found is not None
    assert found.id == mount_id


@pytest.mark.parametrize(("path", "word"), [
    (b"/mnt/nas/techno", "nfs4"), (b"/mnt/share", "cifs"), (b"/smb", "smb3"), (b"/mnt/ssh", "sshfs"),
    (b"/pool", "mergerfs"), (b"/auto/x", "autofs"), (b"/net/x", "nfs"), (b"/vm", "virtiofs"), (b"/p9", "9p"),
    (b"/cluster", "ocfs2"),
])  # fmt: skip
def test_silent_file_systems_are_scanned_only_and_the_reason_names_them(path, word):
    mode, reason = watch_mode(path, MOUNTS)
    assert mode == "scan only"
    assert reason is not None
    assert word in reason


@pytest.mark.parametrize("path", [
    b"/srv/music", b"/home/ana/Music", b"/media/ana/USB DRIVE\t\\\nx", b"/media/ana/stick# 1", b"/merged", b"/usb",
    b"/empty", b"/mnt/nas/local",
])  # fmt: skip
def test_local_drives_bind_mounts_and_overlays_are_watched(path):
    assert watch_mode(path, MOUNTS) == ("events + scan", None)


@pytest.mark.parametrize(
    ("path", "lasting"),
    [
        (b"/etc/x", True),
        (b"/home/x", True),
        (b"/mnt/nas/a/x", True),
        (b"/media/ana/stick# 1/x", False),
        (b"/media/ana/USB DRIVE\t\\\nx/x", False),
        (b"/usb/x", False),
        (b"/mnt/share/x", False),
        (b"/pool/x", False),
        (b"/merged/x", False),
    ],
)
def test_where_inode_numbers_last(tmp_path, monkeypatch, path, lasting):
    table = tmp_path / "mountinfo"
    table.write_bytes(MOUNTINFO)
    monkeypatch.setattr(mounts, "MOUNTINFO", table)
    assert LastingInodes().at(path) is lasting


def test_a_link_is_judged_by_where_it_leads(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nas")
    there = parse_mountinfo(b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / " + os.fsencode(tmp_path) + b"/nas rw - nfs b rw\n")
    assert watch_mode(os.fsencode(link), there)[0] == "scan only"


def test_mounts_below_a_folder():
    assert [m.id for m in mounts_below(b"/mnt/nas", MOUNTS)] == [40, 56]
    assert [m.id for m in mounts_below(b"/home", MOUNTS)] == [35, 36]
    assert mounts_below(b"/mnt/n", MOUNTS) == []
    assert len(mounts_below(b"/", MOUNTS)) == len(MOUNTS)


def test_where_the_system_does_not_say_events_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "not there")
    assert mounts.read_mounts() is None
    assert watch_mode(b"/mnt/nas") == ("events + scan", None)


@pytest.mark.skipif(not mounts.MOUNTINFO.exists(), reason="no /proc/self/mountinfo on this system")
def test_this_machine_has_a_mount_for_every_path(tmp_path):
    found = mount_of(os.fsencode(tmp_path), mounts.read_mounts() or [])
    assert found is not None
    assert os.path.ismount(found.point)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(text):
    parse_mountinfo(text)
    parse_mountinfo(b"1 0 0:1 / /" + text + b" rw - ext4 a rw")


@given(st.binary(min_size=1, max_size=20).filter(lambda b: b"\0" not in b))
def test_any_name_of_a_mount_point_survives_the_kernels_escaping(name):
    escaped = b"".join(b"\\%03o" % c if c in b" \t\n\\#" else bytes([c]) for c in name)
    assert parse_mountinfo(b"7 1 0:1 / /" + escaped + b" rw shared:1 - ext4 /dev/a rw\n")[0].point == b"/" + name
