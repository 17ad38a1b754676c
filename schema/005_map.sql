-- The map: where each recording lies in two dimensions. A place goes with the vector that it was computed from.

CREATE TABLE projections (           -- hidden in Datasette
  encoder_id TEXT PRIMARY KEY REFERENCES encoders (id) ON DELETE CASCADE,
  mean BLOB NOT NULL,                -- little-endian float32: the mean vector, joined encoders' side by side
  axes BLOB NOT NULL,                -- little-endian float32: two directions, one after the other
  explained REAL NOT NULL,           -- share of the directions' variance that the axes showed when they were computed
  recordings INTEGER NOT NULL,       -- how many there were then
  later INTEGER NOT NULL DEFAULT 0,  -- how many were placed on them since
  made_at TEXT NOT NULL              -- when the axes were computed
) STRICT;

CREATE TABLE places (                -- hidden in Datasette
  recording_id INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
  encoder_id TEXT NOT NULL REFERENCES encoders (id) ON DELETE CASCADE,
  x REAL NOT NULL,                   -- along the axis of greatest variance, -1 to 1
  y REAL NOT NULL,                   -- along the second axis
  PRIMARY KEY (recording_id, encoder_id)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER places_delete AFTER DELETE ON embeddings BEGIN
  DELETE FROM places WHERE recording_id = old.recording_id AND encoder_id IN
    (SELECT id FROM encoders WHERE id = old.encoder_id OR EXISTS (SELECT 1 FROM json_each(parts) WHERE value = old.encoder_id));
END;

CREATE TRIGGER places_update AFTER UPDATE OF vector ON embeddings BEGIN
  DELETE FROM places WHERE recording_id = old.recording_id AND encoder_id IN
    (SELECT id FROM encoders WHERE id = old.encoder_id OR EXISTS (SELECT 1 FROM json_each(parts) WHERE value = old.encoder_id));
END;
