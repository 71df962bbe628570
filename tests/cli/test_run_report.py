"""What `shmbpf run` says at its end and how it ends: tables that fit, faults in few lines, one JSON document, and a clean stop for every signal."""

import io
import json
import os
import re
import signal
import subprocess

import pytest
from rich.console import Console

from shmbpf.cli.summary import print_report
from shmbpf.runtime.report import CpuReport
from tests.conftest import assert_nothing_left
from tests.support.captures import pcap
from tests.support.compile import compile_bpf
from tests.support.paths import CAPTURES, ROOT, example_object
from tests.support.shell import until

WEB = CAPTURES / "web.pcap"
COUNTER = example_object("xdp_counter")
API = (ROOT / "tests" / "support" / "bpf_api.h").read_text()
FAULTY = API + """
SEC("xdp") int faulty(struct xdp_md *ctx) {
    volatile unsigned char *data = (void *)(long)ctx->data;
    if (data[12] == 8 && data[13] == 6)
        return data[100000];
    return *(volatile int *)8;
}
char _license[] SEC("license") = "GPL";
"""
SPINNING = API + """
SEC("xdp") int spinning(struct xdp_md *ctx) { volatile int i = 0; while (i < 2000000) i++; return XDP_PASS; }
char _license[] SEC("license") = "GPL";
"""
THREE_HOOKS = API + """
SEC("xdp") int x(struct xdp_md *ctx) { return XDP_PASS; }
SEC("tc") int t(struct __sk_buff *ctx) { return TC_ACT_OK; }
SEC("socket") int s(struct __sk_buff *ctx) { return 20; }
char _license[] SEC("license") = "GPL";
"""

# -- faults --


def test_each_kind_of_fault_is_told_once_and_counted(shell):
    done = shell("run", compile_bpf(FAULTY), "--cpus", 4, "--pcap", WEB, "--loop", 30)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert err.count("fault: CPU") == 2 and len(err.splitlines()) < 12, err
    times = [int(number.replace(",", "")) for number in re.findall(r"^([0-9,]+) times: program faulty", out, re.M)]
    assert len(times) == 2 and sum(times) == 30 * 3417
    assert "\0" not in out + err


def test_faults_of_the_document_add_up(shell):
    document = json.loads(shell.ok("-j", "run", compile_bpf(FAULTY), "--cpus", 2, "--pcap", WEB, "--loop", 3))
    assert sum(fault["count"] for fault in document["faults"]) == document["total"]["faults"] == 3 * 3417
    assert [fault["count"] for fault in document["faults"]] == sorted((fault["count"] for fault in document["faults"]), reverse=True)
    assert all("instruction" in fault["first"] for fault in document["faults"])


def test_a_run_without_faults_does_not_speak_of_them(shell):
    assert "Faults:" not in shell.ok("run", COUNTER, "--cpus", 2, "--pcap", WEB)


# -- signals --


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_whatever_ends_a_run_leaves_nothing(shell, namespace_name, number):
    running = shell.start("run", COUNTER, "--cpus", 2)
    until(lambda: shell("ns", "show").returncode == 0 and b"runtime" in shell("ns", "show").stdout)
    running.send_signal(number)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 128 + number, err
    assert "packets in" in out
    assert_nothing_left(namespace_name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_kills_no_cpu_inside_a_program(shell, number):
    running = subprocess.Popen(shell.command("-j", "run", compile_bpf(SPINNING), "--cpus", 2, "--pcap", WEB, "--loop"), env=shell.environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip
    shell.started.append(running)
    until(lambda: b"runtime" in shell("ns", "show").stdout)
    until(lambda: len(subprocess.run(["pgrep", "-P", str(running.pid)], capture_output=True).stdout.split()) == 2)
    os.killpg(running.pid, number)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 128 + number, err
    assert "was killed" not in err and "ended with" not in err
    assert json.loads(out)["total"]["restarts"] == 0


def test_a_hangup_that_is_ignored_stays_ignored(shell):
    running = subprocess.Popen(["nohup", *shell.command("run", COUNTER, "--cpus", 1)], env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               stdin=subprocess.DEVNULL, text=True)  # fmt: skip
    shell.started.append(running)
    until(lambda: b"runtime" in shell("ns", "show").stdout)
    running.send_signal(signal.SIGHUP)
    assert shell.ok("inject", "shm0", WEB).startswith("3417 packets")
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=30)
    assert running.returncode == 128 + signal.SIGTERM


# -- the document --


def test_maps_are_part_of_the_document(shell):
    document = json.loads(shell.ok("-j", "run", COUNTER, "--cpus", 2, "--pcap", WEB, "--show-maps"))
    counters = next(m for m in document["maps"] if m["name"] == "counters")
    assert counters["elements"][0]["key"] == ["0x00"] * 4
    assert sum(element["formatted"]["value"]["packets"] for element in counters["elements"]) >= 3417
    assert all("elements" not in m for m in json.loads(shell.ok("-j", "run", COUNTER, "--cpus", 2, "--pcap", WEB))["maps"])


def test_an_error_is_told_once_with_json(shell):
    done = shell("-j", "run", "no-such.o")
    assert (done.returncode, done.stderr) == (1, b"")
    assert "no-such.o" in json.loads(done.stdout)["error"]
    done = shell("-j", "run", COUNTER, "--frobnicate")
    assert (done.returncode, done.stderr) == (2, b"") and "frobnicate" in json.loads(done.stdout)["error"]


# -- the tables --


def many_verdicts() -> list[CpuReport]:
    names = ("ok", "reclassify", "shot", "pipe", "stolen", "queued", "repeat", "trap", "redirect", "aborted")
    verdicts = {"xdp": {"pass": 10**9, "drop": 10**9}, "tc": {name: 10**9 for name in names}}
    return [CpuReport(cpu, packets=10**9, bytes=10**12, pid=400000 + cpu, runs=1, run_ns=40, verdicts=verdicts) for cpu in range(2)]


def rendered(reports, **console) -> str:
    text = io.StringIO()
    document = {"object": "x.o", "programs": [], "source": {"truncated": 0}}
    print_report(document, reports, 1.0, console=Console(file=text, highlight=False, soft_wrap=True, **console))
    return text.getvalue()


def test_tables_of_several_hooks_fit_into_80_columns():
    reports = many_verdicts()
    for report in reports:
        report.verdicts["tc"] = {name: report.verdicts["tc"][name] for name in ("ok", "shot", "pipe")}
    text = rendered(reports, width=80)
    assert max(map(len, text.splitlines())) <= 80
    for word in ("CPU", "PID", "packets", "bytes", "ns/run", "faults", "pass", "drop", "ok", "shot", "pipe", "400001", "2,000,000,000"):
        assert word in text, word
    assert "…" not in text


def test_a_pipe_gets_every_column_whole(shell):
    shell.environment.pop("COLUMNS")
    text = shell.ok("run", compile_bpf(THREE_HOOKS), "--cpus", 2, "--pcap", WEB)
    assert "…" not in text and re.search(r"^xdp$.*^tc$.*^socket$", text, re.M | re.S)
    assert len(re.findall(r"3,417", text)) >= 5


def test_one_hook_has_one_table():
    reports = [CpuReport(0, packets=1, bytes=60, verdicts={"xdp": {"pass": 1}})]
    assert rendered(reports, width=80).count("CPU") == 1


# -- contradictions and empty hands --


def test_realtime_with_a_rate_is_refused(shell):
    done = shell("run", COUNTER, "--cpus", 1, "--pcap", WEB, "--realtime", "--rate", 10)
    assert done.returncode == 2 and b"--rate" in done.stderr and b"--realtime" in done.stderr


def test_an_output_directory_that_is_a_file_is_explained(shell, tmp_path):
    (tmp_path / "out").write_text("x")
    assert "is a file" in shell.refused("run", COUNTER, "--cpus", 1, "--pcap", WEB, "--out", tmp_path / "out")


def test_a_capture_without_one_readable_packet_fails_the_run(shell, tmp_path):
    broken = pcap([])[:24] + b"\x01\x02\x03"
    (tmp_path / "x.pcap").write_bytes(broken)
    done = shell("run", COUNTER, "--cpus", 1, "--pcap", tmp_path / "x.pcap")
    assert done.returncode == 1 and b"x.pcap" in done.stderr, done


def test_a_program_that_was_not_chosen_can_be_put_into_an_array(shell):
    source = API + """
    struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 2); __uint(key_size, 4); __uint(value_size, 4); } jmp SEC(".maps");
    SEC("xdp") int main_prog(struct xdp_md *ctx) { bpf_tail_call(ctx, &jmp, 1); return XDP_PASS; }
    SEC("xdp") int tail1(struct xdp_md *ctx) { return XDP_DROP; }
    char _license[] SEC("license") = "GPL";
    """
    running = shell.start("-j", "run", compile_bpf(source), "--prog", "main_prog", "--cpus", 1)
    until(lambda: b"runtime" in shell("ns", "show").stdout)
    shell.ok("map", "update", "name", "jmp", "key", 1, 0, 0, 0, "value", "name", "tail1")
    shell.ok("inject", "shm0", WEB)
    running.terminate()
    out, err = running.communicate(timeout=30)
    assert json.loads(out)["total"]["verdicts"] == {"drop": 3417}, err
    assert [program["name"] for program in json.loads(out)["programs"]] == ["main_prog"]
