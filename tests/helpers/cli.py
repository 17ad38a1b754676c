"""The command line on a library of its own, as a call and as a process."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click.testing

from indexer.cli.main import main

FIXTURES = Path(__file__).parents[3] / "shared" / "tag-fixture"  # real odd files, beside the checkout where they exist


LABELS = ("ambient", "drum and bass", "house", "techno", "trance")


@dataclass
class Cli:
    """The command line on a library of its own: every call gets --db, and the model (and head) where it embeds."""

    folder: Path
    model: Path | None
    head: Path | None = None

    @property
    def db(self) -> Path:
        return self.folder / "library.db"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "INDEXER_DB": str(self.db),
            "INDEXER_MODELS": str(self.folder / "models"),
            "INDEXER_MIN_CONFIDENCE": "0",
            "INDEXER_JOBS": "1",
            **({"INDEXER_ENCODER": str(self.model)} if self.model else {}),
            **({"INDEXER_HEAD": str(self.head)} if self.head else {}),
        }

    def __call__(self, *args: object, code: int = 0, env: dict[str, str] | None = None) -> click.testing.Result:
        result = click.testing.CliRunner().invoke(main, [str(a) for a in args], env={**self.environ, **(env or {})})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def json(self, *args: object, code: int = 0, env: dict[str, str] | None = None):
        return json.loads(self(*args, "--json", code=code, env=env).stdout)

    def process(self, *args: object, env_extra: dict[str, str] | None = None, **kwargs) -> "subprocess.Popen[str]":
        """The command as a process of its own, to be killed or interrupted."""
        return subprocess.Popen(
            [sys.executable, "-m", "indexer", *map(str, args)],
            env={**os.environ, **self.environ, **(env_extra or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **kwargs,
        )
