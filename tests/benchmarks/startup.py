"""Measure how long `orchestrator --help` takes, beside the bare imports it cannot do without.

    python tests/benchmarks/startup.py [--runs 15]

The two commands run in turn, with compiled bytecode; prints the medians and their ratio.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import click, pydantic": [sys.executable, "-c", "import click, pydantic"],
    "orchestrator --help": [sys.executable, "-m", "orchestrator", "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(runs + 1):
        for name, command in COMMANDS.items():
            elapsed = seconds(command)
            if number:  # the first of each compiles and warms the disk
                times[name].append(elapsed)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, median in medians.items():
        print(f"{name}: median {median * 1000:.0f} ms of {runs}")
    base, ours = medians.values()
    print(f"ratio {ours / base:.2f}")


if __name__ == "__main__":
    main()
