"""indexer keeps an electronic-music library labelled. See README.md."""

__version__ = "0.1.0"
