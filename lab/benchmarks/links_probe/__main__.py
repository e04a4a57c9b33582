"""``python -m lab.benchmarks.links_probe``: one probe, on the side where it is run."""

from __future__ import annotations

import argparse
import json
import sys

from lab.benchmarks.links_probe import receive, send


def main() -> None:
    """Run one probe and print its result as JSON."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("what", choices=("send", "receive"))
    made.add_argument("address", help="to send to, or to receive at")
    made.add_argument("--port", type=int, required=True, help="UDP port")
    made.add_argument("--size", type=int, default=100, help="payload bytes")
    made.add_argument("--spacing", type=float, default=0.01, help="seconds between packets")
    made.add_argument("--count", type=int, default=100, help="packets to send")
    made.add_argument("--first", type=float, default=20.0, help="seconds to wait for the first packet")
    made.add_argument("--idle", type=float, default=0.5, help="seconds of silence that end a reception")
    made.add_argument("--limit", type=float, default=300.0, help="seconds that a reception lasts at most")
    args = made.parse_args()
    if args.what == "send":
        result = send(args.address, args.port, args.size, args.spacing, args.count)
    else:
        result = receive(args.address, args.port, args.first, args.idle, args.limit)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
