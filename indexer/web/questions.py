"""SQL that pages share. Runs no query itself."""

from indexer.library.whose_word import NOBODY_SAID

# Tracks without a correction whose own tag names another genre than the decided one.
DISAGREEMENT = (
    "p.decided = 1 AND t.genre IS NOT NULL AND t.indexer_genre IS NULL AND tag_disagrees(t.genre, p.genre)"
    f" AND {NOBODY_SAID}"
)
# The plus keeps SQLite from the index of states: nearly every file is ready, and by recording the rows come in their
# order.
FROM_PREDICTIONS = (
    "FROM heads h JOIN predictions p ON p.head_id = h.id JOIN files f ON f.recording_id = p.recording_id AND"
    " +f.state = 'ready'"
    " LEFT JOIN tags t ON t.file_id = f.id WHERE h.in_use = 1 AND "
)
