# One line for each flow of `shmbpf map items flows`: packets and bytes of all CPUs, protocol, addresses and ports.
#
# A line has the numbers of struct flow_key (16 + 16 address bytes, sport, dport, vlan, protocol, version) and then, for each CPU, those of struct flow_value
# (packets, bytes, tcp_flags, largest).

function address(first, port,    text, i) {
	if (n[37] == 4)
		return n[first + 12] "." n[first + 13] "." n[first + 14] "." n[first + 15] (port ? ":" port : "")
	for (i = first; i < first + 16; i += 2)
		text = text sprintf("%s%x", i > first ? ":" : "", n[i] * 256 + n[i + 1])
	return port ? "[" text "]:" port : text
}

{
	gsub(/[^0-9]+/, " ")
	count = split($0, n, " ")
	packets = bytes = 0
	for (i = 38; i + 3 <= count; i += 4) {
		packets += n[i]
		bytes += n[i + 1]
	}
	protocol = n[36] == 6 ? "tcp" : n[36] == 17 ? "udp" : n[36] == 1 || n[36] == 58 ? "icmp" : n[36]
	printf "%6d packets %8d bytes  %-4s  %s > %s%s\n", packets, bytes, protocol, address(1, n[33]), address(17, n[34]), n[35] ? "  vlan " n[35] : ""
}
