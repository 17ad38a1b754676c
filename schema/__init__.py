"""The database schema as numbered SQL files; imported as ``indexer.schema``."""
