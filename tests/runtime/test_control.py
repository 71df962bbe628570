"""The control socket, with peers that mean no good."""

import os
import signal
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import shmbpf
from shmbpf.errors import ShmbpfError
from shmbpf.runtime.control import ControlClient
from tests.support.paths import example_object


@pytest.fixture
def runtime():
    with shmbpf.Runtime(cpus=1) as rt:
        rt.start()
        yield rt


def connect(rt):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(rt.namespace.run_dir / "ctl.sock"))
    peer.settimeout(10)
    return peer


def is_dropped(peer) -> bool:
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.0\r\n\r\n", os.urandom(64), struct.pack("<II", 0x66706273, 1 << 31), struct.pack("<II", 0x66706273, 4) + b"nope", struct.pack("<II", 0x66706273, 2) + b"[]"],
    ids=["http", "noise", "too long", "no json", "no object"],
)
def test_malformed_frames_are_dropped_and_others_are_served(runtime, sent):
    with connect(runtime) as peer:
        peer.sendall(sent)
        assert is_dropped(peer)
    assert len(runtime.pids) == 1


def test_peer_that_stops_in_a_frame_does_not_hold_up_the_others(runtime):
    with connect(runtime) as slow:
        slow.sendall(struct.pack("<I", 0x66706273))
        start = time.monotonic()
        assert len(runtime.pids) == 1
        assert time.monotonic() - start < 5
        assert is_dropped(slow)


def test_connections_beyond_the_limit_are_closed_and_the_runtime_goes_on(runtime):
    peers = [connect(runtime) for _ in range(80)]
    for peer in peers:
        peer.close()
    assert len(runtime.pids) == 1


def test_unknown_request_is_refused_by_name(runtime):
    with ControlClient(runtime.namespace.run_dir) as client, pytest.raises(ShmbpfError, match="unknown request 'dance'"):
        client.ask(command="dance")
    with ControlClient(runtime.namespace.run_dir) as client, pytest.raises(ShmbpfError):
        client.ask(command="prog_run", cpu=0)
    assert len(runtime.pids) == 1


def test_long_run_on_one_cpu_does_not_hold_up_the_supervisor():
    with shmbpf.Runtime(cpus=2) as rt, ThreadPoolExecutor(1) as pool:
        program = rt.load(example_object("shared_atomic")).programs["shared_atomic"]
        rt.start()
        long = pool.submit(program.run, bytes(64), cpu=0, repeat=20_000_000)
        assert len(rt.pids) == 2 and program.run(bytes(64), cpu=1).retval == shmbpf.XdpAction.PASS
        assert not long.done()
        assert long.result(60).retval == shmbpf.XdpAction.PASS


def test_whoever_waits_for_a_cpu_that_dies_is_told():
    with shmbpf.Runtime(cpus=2) as rt, ThreadPoolExecutor(1) as pool:
        obj = rt.load(example_object("shared_atomic"))
        program = obj.programs["shared_atomic"]
        rt.start()
        pid = rt.pids[0]
        long = pool.submit(program.run, bytes(64), cpu=0, repeat=200_000_000)
        deadline = time.monotonic() + 20
        while not obj.maps["percpu"][0][0]:  # CPU 0 is at it
            assert time.monotonic() < deadline
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ShmbpfError, match="CPU 0 died during the run"):
            long.result(60)


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"command": "prog_run", "cpu": Infinity}', b'{"command": "prog_run", "cpu": 0, "prog": -1, "data": "AAAA"}'])
def test_no_request_ends_the_runtime_or_a_cpu(runtime, body):
    pids = runtime.pids
    with connect(runtime) as peer:
        peer.sendall(struct.pack("<II", 0x66706273, len(body)) + body)
        peer.recv(1)
    assert runtime.pids == pids


def test_repeat_that_cannot_be_is_an_error_not_a_death(runtime):
    program = runtime.load(example_object("shared_atomic")).programs["shared_atomic"]
    pids = runtime.pids
    with pytest.raises(ShmbpfError):
        program.run(bytes(64), repeat=-1)
    assert runtime.pids == pids
