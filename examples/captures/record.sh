#!/bin/bash
# Records the captures of this directory: real programs talk between network namespaces of their own, joined by a bridge, and tcpdump listens on
# the bridge. Needs root, iproute2, tcpdump, dumpcap, ethtool, curl, dig, openssl, ping, arping, nc, clang. Nothing outside the new namespaces is
# touched; they, and the processes in them, are gone when the script ends, however it ends.
#
#       alice .100   bob .101    web .10     dns .53      cam .20 ----- nas .21
#          |           |           |           |           |  (tag 5)    |
#          +-----------+-----------+-- br0 ----+-----------+-------------+       10.0.0.0/24, fd00::/64; VLAN 5: 10.5.0.0/24, fd05::/64
#                                       |
#                                    tcpdump
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
tag=shmcap$$
work=$(mktemp -d)
python=${PYTHON:-python3}
hosts=(sw web dns alice bob cam nas)

cleanup() {
	set +e
	exec 2>/dev/null # the shell reports every server that is ended here
	for host in "${hosts[@]}"; do
		ip netns pids "$tag-$host" 2>/dev/null | xargs -r kill 2>/dev/null
	done
	wait 2>/dev/null
	for host in "${hosts[@]}"; do ip netns del "$tag-$host" 2>/dev/null; done
	rm -rf "$work"
}
trap cleanup EXIT

start() { # start HOST COMMAND...: a server or a recorder, in the background until the end
	local host=$1
	shift
	exec ip netns exec "$tag-$host" "$@"
}

on() { # on HOST COMMAND...: run in that host's namespace, with our name server as the resolver
	local host=$1
	shift
	ip netns exec "$tag-$host" sh -c 'mount --bind "$0" /etc/resolv.conf && exec "$@"' "$work/resolv.conf" "$@"
}

until_up() { # until_up HOST PORT [-u]: a server listens there
	for _ in $(seq 100); do
		on "$1" ss -Hln"${3:-t}" "sport = :$2" | grep -q . && return
		sleep 0.05
	done
	echo "no server on port $2 of $1" >&2
	return 1
}

plug() { # plug HOST IPV4 IPV6: a host with one interface, its cable in the bridge; no offloads, so that frames look as on a wire
	local host=$1
	ip -n "$tag-$host" link add eth0 type veth peer name "$host" netns "$tag-sw"
	on "$host" ethtool -K eth0 tso off gso off gro off tx off rx off >/dev/null
	on sw ethtool -K "$host" tso off gso off gro off tx off rx off >/dev/null
	ip -n "$tag-sw" link set "$host" master br0 up
	ip -n "$tag-$host" link set lo up
	ip -n "$tag-$host" addr add "$2" dev eth0
	ip -n "$tag-$host" -6 addr add "$3" dev eth0 nodad
	ip -n "$tag-$host" link set eth0 up
}

echo "nameserver 10.0.0.53" >"$work/resolv.conf"
for host in "${hosts[@]}"; do ip netns add "$tag-$host"; done
ip -n "$tag-sw" link add br0 type bridge mcast_snooping 0
ip -n "$tag-sw" link set br0 up

# --- listen before anything is plugged in, so that neighbour discovery is seen from the start
start sw tcpdump -i br0 -B 8192 -U -s 0 -w "$work/web.pcap" 2>"$work/tcpdump.log" &
recorder=$!
start sw tcpdump -i br0 -B 4096 -U -s 0 --nano -w "$work/ns.pcap" 'port 53 or icmp or icmp6 or arp' 2>"$work/tcpdump-ns.log" &
recorder_ns=$!
for _ in $(seq 100); do grep -q listening "$work/tcpdump.log" "$work/tcpdump-ns.log" && break || sleep 0.05; done

plug web 10.0.0.10/24 fd00::10/64
plug dns 10.0.0.53/24 fd00::53/64
plug alice 10.0.0.100/24 fd00::100/64
plug bob 10.0.0.101/24 fd00::101/64
plug cam 10.5.0.20/24 fd05::20/64
plug nas 10.5.0.21/24 fd05::21/64
clang=$(command -v clang-19 || command -v clang)
"$clang" -O2 -target bpf -I"/usr/include/$(uname -m)-linux-gnu" -c "$here/vlan_tag.bpf.c" -o "$work/vlan_tag.o"
for host in cam nas; do
	on "$host" tc qdisc add dev eth0 clsact
	on "$host" tc filter add dev eth0 egress bpf direct-action object-file "$work/vlan_tag.o" section egress
	on "$host" tc filter add dev eth0 ingress bpf direct-action object-file "$work/vlan_tag.o" section ingress
done

# --- servers
mkdir "$work/www"
echo "<html><body><h1>It works</h1></body></html>" >"$work/www/index.html"
$python -c "import random, sys; random.seed(1); sys.stdout.buffer.write(random.randbytes(150000))" >"$work/www/photo.jpg"
$python -c "print('0123456789abcdef ' * 3000)" >"$work/www/style.css"
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=secure.example.test -keyout "$work/key" -out "$work/cert" 2>/dev/null
cd "$work/www"
start web $python "$here/hosts.py" http &
start web $python "$here/hosts.py" echo &
start web $python "$here/hosts.py" udp-log &
start web $python "$here/hosts.py" https "$work/cert" "$work/key" &
start web openssl s_server -accept 4433 -www -quiet -cert "$work/cert" -key "$work/key" >/dev/null 2>&1 &
start dns $python "$here/hosts.py" dns &
start nas $python "$here/hosts.py" http &
start nas $python "$here/hosts.py" udp-log &
cd "$here"
for port in 80 7 443 4433; do until_up web $port; done
until_up web 514 u && until_up dns 53 u && until_up nas 80 && until_up nas 514 u

# --- traffic
on alice arping -c 2 -I eth0 10.0.0.10 >/dev/null
on alice ping -q -c 4 -i 0.1 10.0.0.10 >/dev/null
on bob ping -q -c 4 -i 0.1 fd00::10 >/dev/null
on bob ping -q -c 2 -i 0.1 -s 3000 10.0.0.10 >/dev/null # fragments
for name in www secure ns v4only missing; do
	on alice dig +short "@10.0.0.53" "$name.example.test" A >/dev/null
	on bob dig +short "@fd00::53" "$name.example.test" AAAA >/dev/null
done
on alice dig +tcp +short "@10.0.0.53" www.example.test TXT >/dev/null

get() { # get HOST URL...: curl, quietly
	local host=$1
	shift
	on "$host" curl -sfk --max-time 20 -o /dev/null "$@"
}
get alice http://www.example.test/ -o /dev/null http://www.example.test/style.css &
get bob -4 http://www.example.test/photo.jpg &
jobs=($!)
get alice -6 http://www.example.test/photo.jpg
wait "${jobs[@]}"
get bob -6 "http://[fd00::10]/style.css"
get alice -4 https://secure.example.test/style.css &
jobs=($!)
get bob -6 https://secure.example.test/photo.jpg
get alice -4 --tlsv1.2 --tls-max 1.2 https://secure.example.test/index.html
wait "${jobs[@]}"
echo "GET / HTTP/1.0" | on alice timeout 5 openssl s_client -quiet -connect 10.0.0.10:4433 >/dev/null 2>&1 || true
on alice $python "$here/hosts.py" flows 120 10.0.0.10 fd00::10 &
jobs=($!)
on bob $python "$here/hosts.py" flows 120 10.0.0.10 fd00::10
wait "${jobs[@]}"
for n in $(seq 12); do echo "<13>alice: message $n" | on alice nc -u -q 0 -w 1 10.0.0.10 514; done
for n in $(seq 6); do echo "<13>bob: message $n" | on bob nc -u -q 0 -w 1 fd00::10 514; done
echo nobody | on alice nc -u -w 1 10.0.0.10 9 || true   # ICMP port unreachable
echo nobody | on bob nc -u -w 1 fd00::10 9 || true
on bob nc -z -w 1 10.0.0.10 8443 || true                # RST
on cam ping -q -c 3 -i 0.1 10.5.0.21 >/dev/null
on cam ping -q -c 3 -i 0.1 fd05::21 >/dev/null
get cam http://10.5.0.21/style.css
get cam "http://[fd05::21]/index.html"
for n in $(seq 10); do echo "<13>cam: motion $n" | on cam nc -u -q 0 -w 1 10.5.0.21 514; done

# --- a second, small recording: two interfaces in one pcapng
start sw dumpcap -q -i alice -i web -f 'port 80 or port 53 or icmp or icmp6' -w "$work/dual.pcapng" 2>"$work/dumpcap.log" &
dumper=$!
for _ in $(seq 100); do grep -q "^File:" "$work/dumpcap.log" && break || sleep 0.05; done
on alice ping -q -c 2 -i 0.1 10.0.0.10 >/dev/null
on alice ping -q -c 2 -i 0.1 fd00::10 >/dev/null
get alice -4 http://www.example.test/
get alice -6 http://www.example.test/
sleep 1

on sw kill -TERM "$recorder" "$recorder_ns" "$dumper"
wait "$recorder" "$recorder_ns" "$dumper" || true
cat "$work/tcpdump.log"

cp "$work/web.pcap" "$work/dual.pcapng" "$out/"
cp "$work/ns.pcap" "$out/nanoseconds.pcap"
tcpdump -r "$out/web.pcap" -w "$work/part.pcap" 'port 53 or icmp or icmp6 or arp' 2>/dev/null
$python "$here/byteswap.py" "$work/part.pcap" "$out/bigendian.pcap"
chmod 644 "$out"/*.pcap "$out"/*.pcapng
