"""Measure what it costs to keep secrets out of a line of the log.

    python tests/benchmarks/redaction.py [--lines 5000] [--rounds 15] [--secrets 20]

Prints the median and the best round, in microseconds of CPU a line: the line of a request as
logging writes it, the same through the redactor, and one that does hold a secret.
"""

import argparse
import logging
import random
import statistics
import string
import time

from orchestrator.redaction import PRESENTED, Redacting
from orchestrator.server.logs import FORMAT

ACCESS = "req_q81Zr0tVxb2LmE9aKcYd7h key=5e1f09c4d2b7 POST /v1/chat/completions 200 %.1fms"


def made(number: int) -> str:
    rng = random.Random(number)
    return "".join(rng.choices(string.ascii_letters + string.digits, k=43))


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("orchestrator.access", 20, __file__, 1, message, (12.5,), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--secrets", type=int, default=20)
    arguments = parser.parse_args()
    Redacting.know(made(number) for number in range(arguments.secrets))
    PRESENTED.set(f"orc-5e1f09c4d2b7-{made(-1)}")
    redacting = Redacting(FORMAT)
    lines = {
        "as it is": (logging.Formatter(FORMAT), record(ACCESS)),
        "redacted": (redacting, record(ACCESS)),
        "redacted, with a secret": (redacting, record(f"{ACCESS} {made(0)}")),
    }
    took_us: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(arguments.rounds):  # interleaved: a slow moment of the machine hits them all
        for name, (formatter, line) in lines.items():
            started = time.process_time()
            for _ in range(arguments.lines):
                formatter.format(line)
            took_us[name].append((time.process_time() - started) / arguments.lines * 1e6)
    for name, took in took_us.items():
        print(f"{name:24} {statistics.median(took):7.1f} {min(took):7.1f}")


if __name__ == "__main__":
    main()
