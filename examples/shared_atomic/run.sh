#!/bin/sh
# Counts every packet three ways, on four CPUs at once. Options are handed to `shmbpf run`, as in ./run.sh --cpus 2
set -e
cd "$(dirname "$0")"
# In PATH, or where `make demo` puts it.
SHMBPF=${SHMBPF:-$(command -v shmbpf || echo ../../.venv/bin/shmbpf)}
# A namespace of its own; the pins that keep the maps after the run go when this script ends.
export SHMBPF_NS="example-shared_atomic-$$"
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'rm -rf "/dev/shm/shmbpf.$(id -u).$SHMBPF_NS.fs"; $SHMBPF --ns "$SHMBPF_NS" -q ns gc >/dev/null' EXIT

$SHMBPF run prog.o --cpus 4 --pcap ../captures/web.pcap --pin-maps example --loop 50 "$@"

echo "atomic:"
$SHMBPF map dump name atomic

echo "plain:"
$SHMBPF map dump name plain

echo "percpu:"
$SHMBPF map dump name percpu
