"""cbits/net/out.c: files that every tool reads, whoever writes at the same time, whatever fails."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess

import pytest

from shmbpf._ffi import lib
from tests.support.captures import ETHERNET, Packet, flow_frame
from tests.support.outputs import read_outputs

HEADER_BYTES = 60


class Output:
    """A `struct net_out` on a directory."""

    def __init__(self, path) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        self.out = lib.net_out_new(self.fd)

    def put(self, name: str, data: bytes, wire: int | None = None, ts_ns: int = 0, cpu: int = 0) -> int:
        return lib.net_out_packet(self.out, name.encode(), data, len(data), len(data) if wire is None else wire, ts_ns, cpu)

    def flush(self) -> int:
        return lib.net_out_flush(self.out)

    @property
    def lost(self) -> int:
        return lib.net_out_lost(self.out)

    def close(self) -> None:
        lib.net_out_free(self.out)
        os.close(self.fd)


@pytest.fixture
def output(tmp_path):
    output = Output(tmp_path)
    yield output
    output.close()


def test_packets_come_back_with_time_and_lengths(output, tmp_path):
    packets = [Packet(flow_frame(size), 10**18 + size, size + 40, ETHERNET) for size in range(60, 70)]
    for packet in packets:
        assert output.put("pass", packet.data, packet.wire, packet.ts_ns) == 0
    assert output.put("drop", b"", 0) == 0
    assert output.flush() == 0
    assert read_outputs(tmp_path) == {"pass": [Packet(p.data, p.ts_ns, max(p.wire, len(p.data)), ETHERNET) for p in packets], "drop": [Packet(b"", 0, 0, ETHERNET)]}


def test_block_names_the_cpu_as_its_queue(output, tmp_path):
    output.put("tx", bytes(61), cpu=3)
    output.flush()
    block = (tmp_path / "tx.pcapng").read_bytes()[HEADER_BYTES:]
    assert block[28 + 64:28 + 64 + 8] == struct.pack("<HHI", 6, 4, 3)


def test_nothing_is_made_before_there_is_something_to_write(output, tmp_path):
    output.put("pass", bytes(60))
    assert os.listdir(tmp_path) == []
    output.flush()
    assert os.listdir(tmp_path) == ["pass.pcapng"]


def test_full_buffers_are_written_by_themselves(output, tmp_path):
    for _ in range(100):
        assert output.put("pass", bytes(1400)) == 0
    assert output.put("pass", bytes(262144)) == 0
    assert (tmp_path / "pass.pcapng").stat().st_size > 65536
    output.flush()
    assert [len(packet.data) for packet in read_outputs(tmp_path)["pass"]] == [1400] * 100 + [262144]


def test_two_writers_append_whole_blocks_to_one_file(tmp_path):
    children = []
    for child in range(3):
        pid = os.fork()
        if not pid:
            try:
                output = Output(tmp_path)
                for number in range(2000):
                    output.put("pass", struct.pack("<II", child, number) + bytes(100 + number % 7))
                output.close()
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    got = [struct.unpack_from("<II", packet.data) for packet in read_outputs(tmp_path)["pass"]]
    assert [sorted(number for who, number in got if who == child) for child in range(3)] == [list(range(2000))] * 3
    assert os.listdir(tmp_path) == ["pass.pcapng"]


def test_piece_left_by_a_killed_writer_is_cut_off(output, tmp_path):
    output.put("pass", b"first" * 20)
    output.flush()
    path = tmp_path / "pass.pcapng"
    whole = path.read_bytes()
    for cut in range(1, len(whole) - HEADER_BYTES):
        path.write_bytes(whole + whole[HEADER_BYTES:-cut])
        output.put("pass", b"second" * 20)
        assert output.flush() == 0
        assert [packet.data for packet in read_outputs(tmp_path)["pass"]] == [b"first" * 20, b"second" * 20]


def test_foreign_file_of_that_name_is_left_alone(output, tmp_path):
    path = tmp_path / "pass.pcapng"
    path.write_bytes(b"my notes, precious" * 10)
    output.put("pass", bytes(60))
    assert output.flush() == -84
    assert output.lost == 1
    assert path.read_bytes() == b"my notes, precious" * 10


def test_missing_directory_is_an_error_that_counts_the_packets(tmp_path):
    (tmp_path / "gone").mkdir()
    output = Output(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    output.put("pass", bytes(60))
    output.put("pass", bytes(60))
    assert output.flush() == -2
    assert output.lost == 2
    assert output.flush() == 0
    output.close()


def test_full_disk_costs_packets_but_not_the_file(tmp_path):
    resource = pytest.importorskip("resource")
    pid = os.fork()
    if not pid:   # a file size limit makes write(2) short and then fail, as a full disk does
        status = 1
        try:
            import signal
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            output = Output(tmp_path)
            output.put("pass", bytes(60))
            output.flush()
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            for _ in range(20):
                output.put("pass", bytes(60))
            status = 0 if (output.flush(), output.lost) == (-27, 20) else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert [packet.data for packet in read_outputs(tmp_path)["pass"]] == [bytes(60)]


def test_number_of_files_is_bounded(output):
    results = [output.put(f"redirect-{number}", bytes(60)) for number in range(lib.NET_OUT_FILES + 3)]
    assert results == [0] * lib.NET_OUT_FILES + [-24] * 3
    assert output.lost == 3


@pytest.mark.skipif(not shutil.which("tcpdump"), reason="tcpdump is not installed")
def test_tcpdump_reads_the_output(output, tmp_path):
    for number in range(5):
        output.put("pass", flow_frame(number), ts_ns=1_700_000_000_000_000_000 + number)
    output.flush()
    lines = subprocess.run(["tcpdump", "-r", str(tmp_path / "pass.pcapng"), "-tt", "-n", "--nano"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [f"1700000000.00000000{number}" for number in range(5)]
    assert all("10.1.0.1.53" in line for line in lines)
