"""Public: read back the vectors of `indexer export --parquet`."""

from indexer.upkeep.export import read_embeddings

__all__ = ["read_embeddings"]
