"""A bad line, where the kernel has no sch_netem: Ethernet frames between two interfaces, late, and some of them never.

    line.py A B --delay 0.2 --loss 0.05 --seed 7 [--plain NETNS:IFACE]...

Runs until it is killed. What it has done so far is one line of JSON on stdout every half second. A frame must come here as it
would be on a wire: those who send put checksums in and cut large segments (`--plain` tells their interfaces to).
"""

import argparse
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import time

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SIOCETHTOOL = 0x8946
# Transmit checksums, and with them what needs them: segmentation by the interface, and by the stack before it.
ETHTOOL_OFF = [0x17, 0x1F, 0x24]
CLONE_NEWNET = 0x40000000


def plain(interface):
    """Has `interface` send frames as they would be on a wire."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for command in ETHTOOL_OFF:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP", interface.encode(), ctypes.addressof(value)).ljust(40, b"\0")
            fcntl.ioctl(s, SIOCETHTOOL, request)


def elsewhere(namespace, interface):
    """As `plain`, in another network namespace."""
    child = os.fork()
    if child == 0:
        with open(f"/run/netns/{namespace}") as there:
            if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        plain(interface)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit(f"{namespace}: {interface} cannot be made plain")


def end(interface):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    s.bind((interface, ETH_P_ALL))
    s.setblocking(False)
    return s


def frames(s):
    """What has come in; not what was sent from here."""
    while True:
        try:
            frame, address = s.recvfrom(65536)
        except BlockingIOError:
            return
        if address[2] != PACKET_OUTGOING:
            yield frame


def main():
    args = argparse.ArgumentParser()
    args.add_argument("ends", nargs=2)
    args.add_argument("--delay", type=float, required=True)
    args.add_argument("--loss", type=float, required=True)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--plain", action="append", default=[])
    args = args.parse_args()
    for where in args.plain:
        elsewhere(*where.split(":"))
    ends = [end(interface) for interface in args.ends]
    for interface in args.ends:
        plain(interface)
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    rng, late, number = random.Random(args.seed), [], 0
    done = {"passed": 0, "lost": 0}
    said = 0.0
    while True:
        now = time.monotonic()
        while late and late[0][0] <= now:
            _, _, to, frame = heapq.heappop(late)
            try:
                to.send(frame)
                done["passed"] += 1
            except OSError:
                # The other end is down, or its queue is full: that is a loss, too.
                done["lost"] += 1
        if now - said >= 0.5:
            print(json.dumps(done), flush=True)
            said = now
        wait = min(late[0][0] - now if late else 0.5, 0.5)
        for s in select.select(ends, [], [], max(wait, 0))[0]:
            for frame in frames(s):
                if rng.random() < args.loss:
                    done["lost"] += 1
                    continue
                number += 1
                heapq.heappush(late, (time.monotonic() + args.delay, number, other[s], frame))


if __name__ == "__main__":
    main()
