"""Networks of one client and some servers, each behind a link with delay, loss and a rate, on one machine.

Client and servers have network namespaces of their own. A link is two TUN devices and the example `relay` between them, which
passes packets on one by one; TUN devices get no segments larger than their MTU, so what is lost is a packet as on a wire.
Needs root.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
from dataclasses import dataclass

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
CLONE_NEWNET = 0x40000000
CONNECTION_TIMEOUT_S = 60
# The relay is the only place where packets wait, or are lost.
DEVICE_QUEUE_PACKETS = 10_000


@dataclass(frozen=True)
class Link:
    delay_ms: float
    """Of a round trip."""
    loss_permille: float
    """From server to client."""
    mbit_s: float
    queue_kib: int
    """What waits for its turn at that rate; the rest is dropped."""


def ip(*words):
    subprocess.run([shutil.which("ip"), *map(str, words)], check=True, stdin=subprocess.DEVNULL)


def tun(name):
    """A new device in our own namespace; it stays ours when it is moved to another."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
    return device


def enter_network(namespace):
    """This thread's sockets are from now on made in that network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Links:
    """Names are made of our process id, so that two runs do not meet. The ends of a link are NETWORK.n.1 (server) and NETWORK.n.2
    (client); in a network below 127 both are far away, and programs that send credentials over plain http to loopback alone do so."""

    def __init__(self, relay, links, network="10.99"):
        self.relay = relay
        self.links = links
        self.network = network
        self.client = f"sapwood-{os.getpid()}-client"
        self.servers = [f"sapwood-{os.getpid()}-{number}" for number in range(len(links))]
        self.addresses = [f"{network}.{number}.1" for number in range(len(links))]
        self.client_addresses = [f"{network}.{number}.2" for number in range(len(links))]

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        try:
            for space in (self.client, *self.servers):
                ip("netns", "add", space)
                self.stack.callback(ip, "netns", "del", space)
                ip("-n", space, "link", "set", "lo", "up")
                # What one run learns of the path must not help or hurt the next.
                self.set(space, "tcp_no_metrics_save", 1)
                if self.network.startswith("127."):
                    self.set(space, "conf/all/route_localnet", 1)
                    ip("-n", space, "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
            for number, link in enumerate(self.links):
                self.connect(number, link)
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        self.stack.close()

    def connect(self, number, link):
        ends = []
        for side, space, host in (("s", self.servers[number], 1), ("c", self.client, 2)):
            name = f"sw{side}{number}-{os.getpid()}"
            ends.append(tun(name))
            ip("link", "set", name, "netns", space)
            ip("-n", space, "link", "set", name, "mtu", 1500, "txqueuelen", DEVICE_QUEUE_PACKETS, "up")
            ip("-n", space, "addr", "add", f"{self.network}.{number}.{host}/30", "dev", name)
        numbers = (link.delay_ms, link.loss_permille, link.mbit_s, link.queue_kib, number + 1)
        # A session of its own: Ctrl-C is for us, and we stop it in our order.
        relay = subprocess.Popen([self.relay, *map(str, numbers)], stdin=ends[0], stdout=ends[1], start_new_session=True)
        self.stack.callback(relay.wait)
        self.stack.callback(relay.kill)
        for end in ends:
            os.close(end)

    @staticmethod
    def inside(space):
        """The words before a command that is to run in this namespace."""
        return [shutil.which("ip"), "netns", "exec", space]

    @staticmethod
    def connected(space, address):
        """A connection of this process, from that namespace."""
        ours = os.open("/proc/self/ns/net", os.O_RDONLY)
        theirs = os.open(f"/run/netns/{space}", os.O_RDONLY)
        try:
            enter_network(theirs)
            try:
                # It stays where it was made. Only this thread goes there and back.
                return socket.create_connection(address, timeout=CONNECTION_TIMEOUT_S)
            finally:
                enter_network(ours)
        finally:
            os.close(theirs)
            os.close(ours)

    def set(self, space, name, value):
        """A setting of IPv4 in this namespace."""
        command = [*self.inside(space), "tee", f"/proc/sys/net/ipv4/{name}"]
        subprocess.run(command, input=str(value), text=True, stdout=subprocess.DEVNULL, check=True)
