"""How long the commands take that only look, as whole processes, against `python -c pass` in the same run, alternating.

python -m tests.benchmarks.bench_startup
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from indexer.library.store import Store

ROUNDS = 11


def seconds(*command: str) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        db = Path(folder, "library.db")
        Store(db).close()
        commands = {"--help": ["--help"], "status": ["status", "--db", str(db)], "scan --help": ["scan", "--help"]}
        for name, arguments in commands.items():
            ours, plain = [], []
            for _ in range(ROUNDS):
                plain.append(seconds("-c", "pass"))
                ours.append(seconds("-m", "indexer", *arguments))
            ratios = [a / b for a, b in zip(ours, plain, strict=True)]
            print(
                f"indexer {name}: {statistics.median(ours):.3f} s ({min(ours):.3f} to {max(ours):.3f}), "
                f"{statistics.median(ratios):.1f} times `python -c pass` ({statistics.median(plain):.3f} s)"
            )


if __name__ == "__main__":
    main()
