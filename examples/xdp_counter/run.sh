#!/bin/sh
# Counts the packets of the sample capture by protocol. Options are handed to `shmbpf run`, as in ./run.sh --cpus 2
set -e
cd "$(dirname "$0")"
# In PATH, or where `make demo` puts it.
SHMBPF=${SHMBPF:-$(command -v shmbpf || echo ../../.venv/bin/shmbpf)}
# A namespace of its own; the pins that keep the maps after the run go when this script ends.
export SHMBPF_NS="example-xdp_counter-$$"
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'rm -rf "/dev/shm/shmbpf.$(id -u).$SHMBPF_NS.fs"; $SHMBPF --ns "$SHMBPF_NS" -q ns gc >/dev/null' EXIT

$SHMBPF run prog.o --cpus 4 --pcap ../captures/web.pcap --pin-maps example "$@"

echo "counters:"
$SHMBPF map dump name counters

echo "cpu_packets:"
$SHMBPF map dump name cpu_packets
