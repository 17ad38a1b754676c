"""The linear head on the built-in encoder beside the convolutional network: the demo's library, the same split.

    python -m tests.benchmarks.bench_learners

The music is SYNTHETIC: the figures show that both learn; they do not hold for real music.
"""

import tempfile
from pathlib import Path

from indexer.cli.progress import Progress
from indexer.config import Settings
from indexer.learn.dataset import LabelRequest
from indexer.learn.evaluate import Request, evaluate
from indexer.upkeep.demo import demo


def main() -> None:
    """Make the demo, evaluate with the truth as labels, print the rows."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "demo")
        settings = Settings(db=library / "library.db", encoder="rhythm")
        demo(settings, library, Progress(-1), lambda _: None)
        found = evaluate(settings, Request(LabelRequest(csv=library / "truth.csv"), cnn=True))
        print(
            f"SYNTHETIC music: {found['library']['recordings']} tracks of {found['library']['artists']}"
            f" made-up artists, {found['method']['folds']} folds"
        )
        for row in found["learners"]:
            low, high = row["accuracy_95"]
            print(
                f"{row['name']:20} {row['accuracy']:6.1%} right ({low:.0%} to {high:.0%}),"
                f" {row['elapsed_s']:.1f} s of training and judging"
            )


if __name__ == "__main__":
    main()
