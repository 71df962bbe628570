"""The servers and the busy client of record.sh, one per call: `hosts.py http|https|dns|echo|udp-log|flows ...`. Standard library only."""

from __future__ import annotations

import argparse
import concurrent.futures
import http.server
import ipaddress
import socket
import socketserver
import ssl
import struct
import threading

#: The zone that the name server answers for. Everything else is NXDOMAIN.
ZONE = {
    "www.example.test": ("10.0.0.10", "fd00::10"),
    "secure.example.test": ("10.0.0.10", "fd00::10"),
    "ns.example.test": ("10.0.0.53", "fd00::53"),
    "v4only.example.test": ("10.0.0.10", None),
}
_A, _TXT, _AAAA = 1, 16, 28


class DualStackTcp(socketserver.ThreadingTCPServer):
    """One listening socket for both families."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class DualStackHttp(DualStackTcp, http.server.HTTPServer):
    """http.server on that socket."""


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    """Files of the current directory; connections stay open, nothing is logged."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


def serve_http(arguments: argparse.Namespace) -> None:
    """Port 80."""
    DualStackHttp(("::", 80), QuietFiles).serve_forever()


def serve_https(arguments: argparse.Namespace) -> None:
    """Port 443, with the certificate and key given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.cert, arguments.key)
    server = DualStackHttp(("::", 443), QuietFiles)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


def answer(query: bytes) -> bytes:
    """The reply to one DNS query (RFC 1035 4.1): one question, at most one record."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    question = query[12 : at + 5]
    kind = struct.unpack_from(">H", query, at + 1)[0]
    name = ".".join(labels).lower()
    v4, v6 = ZONE.get(name, (None, None))
    data = {_A: v4 and ipaddress.ip_address(v4).packed, _AAAA: v6 and ipaddress.ip_address(v6).packed}.get(kind)
    if kind == _TXT and name in ZONE:
        text = b"recorded for tests " * 10
        data = bytes([len(text)]) + text
    record = struct.pack(">HHHIH", 0xC00C, kind, 1, 300, len(data)) + data if data else b""
    flags = 0x8580 if name in ZONE else 0x8583
    return query[:2] + struct.pack(">HHHHH", flags, 1, 1 if record else 0, 0, 0) + question + record


def serve_dns(arguments: argparse.Namespace) -> None:
    """Port 53 over UDP and TCP."""

    class Tcp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while size := self.rfile.read(2):
                reply = answer(self.rfile.read(struct.unpack(">H", size)[0]))
                self.wfile.write(struct.pack(">H", len(reply)) + reply)

    threading.Thread(target=DualStackTcp(("::", 53), Tcp).serve_forever, daemon=True).start()
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.bind(("::", 53))
    while True:
        query, client = udp.recvfrom(4096)
        udp.sendto(answer(query), client)


def serve_echo(arguments: argparse.Namespace) -> None:
    """TCP port 7: what comes goes back."""

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(65536):
                self.request.sendall(data)

    DualStackTcp(("::", 7), Echo).serve_forever()


def serve_udp_log(arguments: argparse.Namespace) -> None:
    """UDP port 514: a sink, as syslog is."""
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.bind(("::", 514))
    while True:
        udp.recv(65536)


def exchange(address: str, number: int) -> None:
    """One TCP flow with the echo server: a line there and back."""
    with socket.create_connection((address, 7), timeout=10) as flow:
        flow.sendall(f"flow {number} ".encode() + b"." * (number * 37 % 200))
        flow.shutdown(socket.SHUT_WR)
        while flow.recv(65536):
            pass


def run_flows(arguments: argparse.Namespace) -> None:
    """`count` flows, eight at a time, alternating over the addresses."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        targets = [arguments.address[n % len(arguments.address)] for n in range(arguments.count)]
        list(pool.map(exchange, targets, range(arguments.count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    roles = parser.add_subparsers(required=True)
    for name, function in (("http", serve_http), ("dns", serve_dns), ("echo", serve_echo), ("udp-log", serve_udp_log)):
        roles.add_parser(name).set_defaults(run=function)
    https = roles.add_parser("https")
    https.add_argument("cert")
    https.add_argument("key")
    https.set_defaults(run=serve_https)
    flows = roles.add_parser("flows")
    flows.add_argument("count", type=int)
    flows.add_argument("address", nargs="+")
    flows.set_defaults(run=run_flows)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
