#!/bin/sh
# Runs the program on 4 CPUs over the sample capture while a consumer in another process listens. Options are handed to `shmbpf run`, as in ./run.sh --cpus 2
set -e
cd "$(dirname "$0")"
# In PATH, or where `make demo` puts them.
SHMBPF=${SHMBPF:-$(command -v shmbpf || echo ../../.venv/bin/shmbpf)}
PYTHON=${PYTHON:-$([ -x ../../.venv/bin/python ] && echo ../../.venv/bin/python || echo python3)}
export SHMBPF_NS="example-packet_sampler-$$"
scratch=$(mktemp -d)
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'kill $consumer $runtime 2>/dev/null || true; wait; rm -rf "$scratch"; $SHMBPF --ns "$SHMBPF_NS" -q ns gc >/dev/null 2>&1' EXIT

# waits until FILE has a line with WORD, or the process PID has ended
await() {
	until grep -q "$2" "$1" 2>/dev/null; do
		kill -0 "$3" 2>/dev/null || { cat "$scratch"/*.err >&2; exit 1; }
		sleep 0.1
	done
}

$SHMBPF run prog.o --cpus 4 "$@" >"$scratch/summary" 2>"$scratch/run.err" &
runtime=$!
await "$scratch/run.err" shm0 $runtime
$PYTHON consume.py --ns "$SHMBPF_NS" --out "$scratch/samples.pcapng" --idle 4 >"$scratch/lines" 2>"$scratch/consume.err" &
consumer=$!
await "$scratch/consume.err" listening $consumer

# one packet in 20
$SHMBPF map set name settings 0 '{every: 20}'
$SHMBPF inject shm0 ../captures/web.pcap
wait $consumer
kill $runtime
wait $runtime || [ $? = 143 ]

cat "$scratch/summary"
echo "first samples:"
head -n 12 "$scratch/lines"
tail -n 1 "$scratch/consume.err"
echo "samples.pcapng: $(wc -c <"$scratch/samples.pcapng") bytes"
