"""The tag structures of each container, read and edited as raw bytes, so that all but the genre stays as it is.

Only indexer.genre_fields and indexer.tags use them, and edits are made on copies alone (indexer.tagwriter).
"""
