#!/bin/sh
# Flow statistics of the sample capture. Options are handed to `shmbpf run`, as in ./run.sh --cpus 2
set -e
cd "$(dirname "$0")"
# In PATH, or where `make demo` puts it.
SHMBPF=${SHMBPF:-$(command -v shmbpf || echo ../../.venv/bin/shmbpf)}
# A namespace of its own; the pins that keep the maps after the run go when this script ends.
export SHMBPF_NS="example-flow_stats-$$"
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'rm -rf "/dev/shm/shmbpf.$(id -u).$SHMBPF_NS.fs"; $SHMBPF --ns "$SHMBPF_NS" -q ns gc >/dev/null' EXIT

$SHMBPF run prog.o --cpus 4 --pcap ../captures/web.pcap --pin-maps example "$@"

echo "totals:"
$SHMBPF map dump name totals

flows=$($SHMBPF map items flows)
echo "the ten largest of $(echo "$flows" | wc -l) flows (all of them while the map is there: shmbpf map dump name flows):"
echo "$flows" | awk -f flows.awk | sort -rn | head -10
