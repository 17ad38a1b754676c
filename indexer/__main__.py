"""``python -m indexer`` and the command ``indexer``."""

from indexer.cli.main import main

if __name__ == "__main__":
    main()
