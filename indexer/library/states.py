"""The states of a file, and how a missing one that is only left out is told apart. Standard library only."""

STATES = ("ready", "missing", "unreadable", "unsupported", "deferred")
# The reason of a missing file that may be there, and that the user's settings or a rule leave out by its name.
LEFT_OUT = "left out by its name"
SHOWN_STATE = f"CASE WHEN state = 'missing' AND reason = '{LEFT_OUT}' THEN 'left out' ELSE state END"
# Whether a recording's genre, or its vector where there is none, is by a few of its units only.
ROUGH = "coalesce(p.rough, EXISTS (SELECT 1 FROM embeddings e WHERE e.rough AND e.recording_id = f.recording_id))"
# Whether what is there of the file f was heard, although the file lost its end.
TRUNCATED = "coalesce(f.state = 'ready' AND f.reason LIKE 'truncated:%', 0)"
