-- Further sets of labels beside the genre (mood, set role): each with a head of its own, and what a person said.

CREATE TABLE label_sets (
  name TEXT PRIMARY KEY,             -- as in [sets.NAME]; NAME, NAME_confidence and NAME_decided are columns of `tracks`
  head_id TEXT REFERENCES heads (id), -- the head that `train --set NAME` put in use; NULL: none yet
  in_use INTEGER NOT NULL DEFAULT 1 CHECK (in_use IN (0, 1)) -- whether the settings name it; the view shows those
) STRICT;

CREATE TABLE set_corrections (       -- what a person said in a set; the newest row of a recording counts
  id INTEGER PRIMARY KEY,
  recording_id INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
  label_set TEXT NOT NULL,           -- a name in label_sets
  label TEXT NOT NULL,               -- "dark", "opener" ...
  corrected_at TEXT NOT NULL,
  corrected_by TEXT
) STRICT;

CREATE INDEX set_corrections_recording ON set_corrections (recording_id, label_set, id);
