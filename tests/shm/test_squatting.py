"""Names in /dev/shm that somebody took before us: refused with the owner named, never used, never followed."""

import os
from pathlib import Path

import pytest

from shmbpf.errors import SegmentError
from shmbpf.shm.namespace import Namespace
from shmbpf.shm.segment import SHM_DIR, own_directory


def test_directory_open_to_others_is_refused(namespace_name):
    path = SHM_DIR / f"shmbpf.{os.getuid()}.{namespace_name}.held"
    path.mkdir()
    path.chmod(0o755)
    with pytest.raises(SegmentError, match="mode 0755"):
        own_directory(path)
    path.rmdir()


def test_symlink_in_place_of_a_directory_is_refused(namespace_name, tmp_path):
    path = SHM_DIR / f"shmbpf.{os.getuid()}.{namespace_name}.held"
    path.symlink_to(tmp_path)
    with pytest.raises(SegmentError, match="not ours"):
        own_directory(path)
    path.unlink()


@pytest.mark.parametrize("make", [lambda path, target: path.symlink_to(target), lambda path, _: path.mkdir(), lambda path, _: os.mkfifo(path)])
def test_squatted_control_segment_is_refused(namespace_name, tmp_path, make):
    path = SHM_DIR / f"shmbpf.{os.getuid()}.{namespace_name}.ctl.0"
    (tmp_path / "target").write_bytes(bytes(8192))
    make(path, tmp_path / "target")
    with pytest.raises((SegmentError, OSError)):
        Namespace(namespace_name)
    assert (tmp_path / "target").read_bytes() == bytes(8192)
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_control_segment_readable_by_others_is_refused(namespace):
    path = Path(SHM_DIR / f"{namespace.prefix}.ctl.0")
    path.chmod(0o644)
    with pytest.raises(SegmentError, match="not ours"):
        Namespace(namespace.name)
    path.chmod(0o600)
