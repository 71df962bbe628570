"""`shmbpf run` and `inject` as a user meets them: what is printed, what is refused, what is left."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from shmbpf.cli import main
from tests.support.captures import read_packets
from tests.support.compile import compile_bpf
from tests.support.paths import CAPTURES, ROOT, example_object
from tests.support.shell import until

WEB = CAPTURES / "web.pcap"
COUNTER = example_object("xdp_counter")
API = (ROOT / "tests" / "support" / "bpf_api.h").read_text()


# -- what it prints --


def test_every_packet_gets_a_verdict_and_the_document_adds_up(shell):
    document = json.loads(shell.ok("-j", "run", COUNTER, "--cpus", 4, "--pcap", WEB))
    packets = read_packets(WEB)
    assert document["total"]["packets"] == len(packets) == document["source"]["packets"]
    assert document["total"]["bytes"] == sum(map(len, packets)) == sum(cpu["bytes"] for cpu in document["cpus"])
    assert document["total"]["verdicts"] == {"pass": len(packets)}
    assert len({cpu["pid"] for cpu in document["cpus"]}) == 4 and all(cpu["packets"] for cpu in document["cpus"])
    assert [program["name"] for program in document["programs"]] == ["xdp_counter"]
    assert {m["name"] for m in document["maps"]} == {"counters", "cpu_packets", "config"}
    assert document["events"] == {"sent": 0, "lost": 0}


def test_table_names_cpus_verdicts_and_totals(shell):
    text = shell.ok("run", COUNTER, "--cpus", 2, "--pcap", WEB, "--show-maps")
    assert re.search(r"CPU.*PID.*packets.*bytes.*pass.*ns/run.*faults", text)
    assert "3,417 packets in" in text and "counters (id" in text


def test_loop_replays_the_capture(shell):
    document = json.loads(shell.ok("-j", "run", COUNTER, "--cpus", 2, "--pcap", WEB, "--loop", 3))
    assert document["total"]["packets"] == 3 * len(read_packets(WEB))


def test_count_stops_after_that_many_packets(shell):
    document = json.loads(shell.ok("-j", "run", COUNTER, "--cpus", 2, "--pcap", WEB, "--loop", "--count", 5000))
    assert document["total"]["packets"] == 5000


def test_stdin_is_a_source(shell):
    document = json.loads(shell.ok("-j", "run", COUNTER, "--cpus", 2, "--pcap", "-", stdin=WEB.read_bytes()))
    assert document["total"]["packets"] == len(read_packets(WEB))


@pytest.mark.parametrize("capture", ["bigendian.pcap", "nanoseconds.pcap", "dual.pcapng"])
def test_every_shipped_format_is_read(shell, capture):
    document = json.loads(shell.ok("-j", "run", COUNTER, "--cpus", 2, "--pcap", CAPTURES / capture))
    assert document["total"]["packets"] > 50 and document["source"]["truncated"] == 0


def test_out_writes_one_file_per_verdict(shell, tmp_path):
    shell.ok("run", example_object("tc_tailcall"), "--cpus", 4, "--pcap", WEB, "--out", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"pass.pcapng", "drop.pcapng"}
    again = json.loads(shell.ok("-j", "run", COUNTER, "--cpus", 1, "--pcap", tmp_path / "out" / "pass.pcapng"))
    assert again["total"]["packets"] == 3413


def test_pinned_maps_outlive_the_run_until_they_are_removed(shell):
    shell.ok("run", COUNTER, "--cpus", 2, "--pcap", WEB, "--pin-maps", "kept")
    assert "packets: 3223" in shell.ok("map", "get", "counters", 4)
    pins = Path(f"/dev/shm/shmbpf.{os.getuid()}.{shell.ns}.fs")
    assert sorted(path.name for path in (pins / "kept").iterdir()) == ["config", "counters", "cpu_packets"]
    for path in (pins / "kept").iterdir():
        path.unlink()
    (pins / "kept").rmdir()
    shell.ok("map", "show")


# -- while it runs --


def test_second_terminal_reads_and_changes_maps_and_the_program_reacts(shell):
    first = shell.start("run", COUNTER, "--cpus", 2, "--pcap", WEB, "--loop")
    try:
        until(lambda: shell("map", "get", "counters", 5).returncode == 0)
        assert "counters" in shell.ok("map", "show")
        assert "packets: 0" in shell.ok("map", "get", "counters", 6)
        shell.ok("map", "set", "config", 0, 514)
        until(lambda: "packets: 0" not in shell.ok("map", "get", "counters", 6))
        assert json.loads(shell.ok("-j", "map", "dump", "name", "counters"))
        assert "already has a runtime" in shell.refused("run", COUNTER, "--cpus", 2, "--pcap", WEB)
    finally:
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=30)
    assert first.returncode == 130, err
    assert "packets/s" in out and "drop" in out and "Traceback" not in err


def test_inject_feeds_a_waiting_runtime(shell):
    first = shell.start("-j", "run", COUNTER, "--cpus", 2)
    try:
        until(lambda: shell("inject", "shm0", WEB).returncode == 0)
        assert shell("inject", "shm7", WEB).returncode == 1
    finally:
        first.send_signal(signal.SIGTERM)
        out, err = first.communicate(timeout=30)
    assert first.returncode == 143, err
    assert json.loads(out)["total"]["packets"] == 3417


def test_killed_worker_is_reported_with_its_cpu_and_replaced(shell):
    first = shell.start("run", COUNTER, "--cpus", 2, "--pcap", WEB, "--loop")
    try:
        until(lambda: shell("map", "get", "counters", 5).returncode == 0)
        victim = int(subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True).stdout.split()[0])
        os.kill(victim, signal.SIGKILL)
        until(lambda: str(victim) not in subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True).stdout.split())
        until(lambda: len(subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True).stdout.split()) == 2)
    finally:
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=30)
    assert re.search(rf"CPU \d \(PID {victim}\) was killed by SIGKILL", err) and "replaced by PID" in err
    assert "1 CPU restarts" in out


def test_killed_supervisor_takes_its_workers_along_and_the_next_command_clears_up(shell):
    first = shell.start("run", COUNTER, "--cpus", 2, "--pcap", WEB, "--loop")
    until(lambda: shell("map", "get", "counters", 5).returncode == 0)
    workers = [int(pid) for pid in subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True).stdout.split()]
    first.kill()
    first.communicate(timeout=30)
    until(lambda: not any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in workers))
    shell.ok("map", "show")


def test_fault_names_cpu_instruction_and_source_line_and_the_run_goes_on(shell):
    source = API + """
    SEC("xdp") int bad(struct xdp_md *ctx) {
        volatile unsigned char *data = (void *)(long)ctx->data;
        if (data[12] == 8 && data[13] == 6)
            return data[100000];
        return XDP_PASS;
    }
    char _license[] SEC("license") = "GPL";
    """
    done = shell("-j", "run", compile_bpf(source), "--cpus", 2, "--pcap", WEB)
    document = json.loads(done.stdout)
    arp = sum(packet[12:14] == b"\x08\x06" for packet in read_packets(WEB))
    assert document["total"]["faults"] == arp > 0
    assert document["total"]["verdicts"]["pass"] == 3417 - arp
    assert re.search(r"fault: CPU \d: program bad \(id \d+\), instruction \d+ \[r\d+ = \*\(u8 \*\)\(r\d+ \+\d+\)\] at .*:\d+ ", done.stderr.decode())


# -- what it refuses --


def test_not_an_elf_is_one_line(shell, tmp_path):
    (tmp_path / "x.o").write_bytes(b"hello")
    assert "x.o" in shell.refused("run", tmp_path / "x.o", "--pcap", WEB)


def test_object_for_another_machine_is_one_line(shell):
    assert "clang -target bpf" in shell.refused("run", Path(sys.executable).resolve(), "--pcap", WEB)


def test_missing_file_is_one_line(shell, tmp_path):
    assert "no.o" in shell.refused("run", tmp_path / "no.o")
    assert "no.pcap" in shell.refused("run", COUNTER, "--pcap", tmp_path / "no.pcap")


def test_no_permission_is_one_line(tmp_path):
    (tmp_path / "x.o").write_bytes(b"")
    (tmp_path / "x.o").chmod(0)
    read_end, write_end = os.pipe()
    import_module("shmbpf.cli.run"), import_module("shmbpf.elf.object")  # before the child becomes somebody who may not read them
    child = os.fork()
    if child == 0:
        sys.stderr = os.fdopen(write_end, "w", buffering=1)
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            main(["run", str(tmp_path / "x.o")])
        except SystemExit as end:
            os._exit(end.code)
        os._exit(99)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        text = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert text.count("\n") == 1 and text.startswith("Error: ") and "x.o: Permission denied" in text


def test_object_without_programs_is_one_line(shell):
    assert "no program" in shell.refused("run", compile_bpf(API + 'char _license[] SEC("license") = "GPL";'), "--pcap", WEB)


def test_unknown_helper_is_named(shell):
    source = API + """
    static long (*nothing)(void) = (void *)4242;
    SEC("xdp") int main_prog(struct xdp_md *ctx) { return nothing(); }
    """
    text = shell.refused("run", compile_bpf(source), "--pcap", WEB)
    assert "4242" in text and "main_prog" in text


@pytest.mark.parametrize("number, word", [(33, "arena"), (999, "999")])
def test_map_type_that_is_not_here_is_named(shell, number, word):
    source = API + f"""
    struct {{ __uint(type, {number}); __uint(max_entries, 1); __uint(key_size, 4); __uint(value_size, 4); }} odd SEC(".maps");
    SEC("xdp") int main_prog(struct xdp_md *ctx) {{ int key = 0; return bpf_map_lookup_elem(&odd, &key) ? 1 : 2; }}
    """
    text = shell.refused("run", compile_bpf(source), "--pcap", WEB)
    assert word in text and "odd" in text


def test_map_too_large_says_how_many_bytes_are_needed_and_free(shell):
    source = API + """
    struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 200000000); __uint(key_size, 4); __uint(value_size, 4096); } huge SEC(".maps");
    SEC("xdp") int main_prog(struct xdp_md *ctx) { int key = 0; return bpf_map_lookup_elem(&huge, &key) ? 1 : 2; }
    """
    text = shell.refused("run", compile_bpf(source), "--pcap", WEB)
    assert re.search(r"needs \d{12} bytes, \d+ are free", text) and "--shm-size" in text


@pytest.mark.parametrize("cpus", [0, -3, 100000])
def test_cpu_count_that_cannot_be_is_one_line(shell, cpus):
    assert "expected 1 to" in shell.refused("run", COUNTER, "--cpus", cpus, "--pcap", WEB)


def test_broken_capture_is_processed_as_far_as_it_goes(shell, tmp_path):
    (tmp_path / "cut.pcap").write_bytes(WEB.read_bytes()[:50_000])
    done = shell("-j", "run", COUNTER, "--cpus", 2, "--pcap", tmp_path / "cut.pcap")
    assert done.returncode == 0
    assert json.loads(done.stdout)["total"]["packets"] > 50
    assert b"warning: " in done.stderr and b"truncated" in done.stderr


def test_something_that_is_no_capture_is_one_line(shell, tmp_path):
    (tmp_path / "x.pcap").write_bytes(struct.pack("<8I", *range(8)))
    assert "x.pcap" in shell.refused("run", COUNTER, "--pcap", tmp_path / "x.pcap")
    (tmp_path / "empty.pcap").write_bytes(b"")
    assert "empty" in shell.refused("run", COUNTER, "--pcap", tmp_path / "empty.pcap")


def test_wrong_usage_exits_with_two(shell):
    assert shell("run").returncode == 2
    assert shell("run", COUNTER, "--frobnicate").returncode == 2


def test_capture_truncated_under_the_replay_kills_nobody(shell, tmp_path):
    capture = tmp_path / "shrinking.pcap"
    capture.write_bytes(WEB.read_bytes())
    first = shell.start("-j", "run", COUNTER, "--cpus", 2, "--pcap", capture, "--loop")
    until(lambda: shell("map", "get", "counters", 5).returncode == 0)
    os.truncate(capture, 100_000)
    seen = shell.ok("map", "get", "counters", 4)
    until(lambda: shell.ok("map", "get", "counters", 4) != seen)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=30)
    assert first.returncode == 130, err
    assert "truncated while it was read" in err and "was killed" not in err and json.loads(out)["total"]["packets"] > 0
