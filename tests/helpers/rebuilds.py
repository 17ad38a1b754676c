"""A rebuilt library, killed at each step."""

import os
import signal
from pathlib import Path

from indexer.config import Settings
from indexer.upkeep import rebuild


def kill_everywhere(db: Path) -> None:
    """Run ``rebuild``, killed at its first, second ... change of the folder, until it passes; print what was there."""
    settings = Settings(db=db, models=db.parent / "models", encoder="rhythm")
    old = {ending: Path(f"{db}{ending}").read_bytes() for ending in ("", "-wal")}
    for step in range(1, 100):
        for path in db.parent.glob("library.db*"):
            path.unlink()
        for ending, content in old.items():
            Path(f"{db}{ending}").write_bytes(content)
        child = os.fork()
        if not child:
            kill_at(step)
            rebuild.rebuild(settings)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = "old" if db.read_bytes() == old[""] else "new"
        print(found)
        kept = list(db.parent.glob("library.db.damaged-*Z"))
        if found == "new":
            assert [p.read_bytes() for p in kept] == [old[""]]
            assert Path(f"{kept[0]}-wal").read_bytes() == old["-wal"]
            assert not Path(f"{db}-wal").exists()
            assert rebuild.check(db)["problems"] == []
        elif not Path(f"{db}-wal").exists():
            assert [Path(f"{p}-wal").read_bytes() for p in kept] == [old["-wal"]]
        if status == 0:
            assert found == "new"
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        again = rebuild.rebuild(settings)  # whatever was there
        assert Path(again["damaged"]).exists()
        assert rebuild.check(db)["problems"] == []
        assert not list(db.parent.glob("*.rebuilt*"))
    raise AssertionError("it never passed")


def kill_at(step: int) -> None:
    """End this process at its ``step``-th change of a folder or wait for the disk."""
    calls = 0

    def counted(real):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in ("link", "replace", "fsync", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
