#!/bin/sh
# Counts the sample capture twice in a map that stays, the first time killed with SIGKILL before it can say goodbye. Options are handed to `shmbpf run`.
set -e
cd "$(dirname "$0")"
# In PATH, or where `make demo` puts it.
SHMBPF=${SHMBPF:-$(command -v shmbpf || echo ../../.venv/bin/shmbpf)}
export SHMBPF_NS="example-kept_stats-$$"
scratch=$(mktemp -d)
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'kill $runtime 2>/dev/null || true; rm -rf "$scratch"; $SHMBPF ns rm "$SHMBPF_NS" >/dev/null 2>&1 || true' EXIT

$SHMBPF run prog.o --cpus 4 "$@" >"$scratch/out" 2>"$scratch/err" &
runtime=$!
until grep -q shm0 "$scratch/err"; do
	kill -0 $runtime 2>/dev/null || { cat "$scratch/err" >&2; exit 1; }
	sleep 0.1
done
$SHMBPF inject shm0 ../captures/web.pcap
kill -KILL $runtime
wait $runtime 2>/dev/null || true
echo "the loader and its CPUs were killed; what is pinned:"
$SHMBPF ls
echo "totals, one value for each CPU:"
$SHMBPF map get pinned totals 0

$SHMBPF run prog.o --cpus 4 --pcap ../captures/web.pcap "$@"
echo "totals after the second run:"
$SHMBPF map get pinned totals 0
$SHMBPF unpin totals
