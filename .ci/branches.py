"""Hold each package's branch coverage to the limit that pyproject.toml sets for the whole."""

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import coverage


def main() -> int:
    """Print a line for each package; 1 when one of them is below the limit, or none was run."""
    measured = coverage.Coverage()
    measured.load()
    limit_percent = measured.get_option("report:fail_under")
    assert isinstance(limit_percent, int | float), "pyproject.toml sets it"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(report))
        files = json.loads(report.read_text("utf-8"))["files"]
    total, covered = Counter[str](), Counter[str]()
    for path, file in files.items():
        package = Path(path).parts[0]
        total[package] += file["summary"].get("num_branches", 0)
        covered[package] += file["summary"].get("covered_branches", 0)
    percents = {package: 100 * covered[package] / max(total[package], 1) for package in total}
    for package, percent in sorted(percents.items()):
        print(f"{package}: {percent:.1f} % of {total[package]} branches")
    return int(min(percents.values(), default=0) < limit_percent)


if __name__ == "__main__":
    sys.exit(main())
