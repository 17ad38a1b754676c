-- Other encodings of one piece are confirmed by aligning how their spectra move.

CREATE TABLE fingerprints (          -- of the first ten minutes of a recording; hidden in Datasette
  recording_id INTEGER PRIMARY KEY REFERENCES recordings (id) ON DELETE CASCADE,
  words BLOB NOT NULL                -- little-endian uint16, four a second; see indexer/analysis/fingerprint.py
) STRICT;

ALTER TABLE same_sound ADD COLUMN agreement REAL /* share of the fingerprint's bits, 0 to 1, that agree with another recording of the same sound; NULL: found by embedding and length only, or none is the same */;
ALTER TABLE same_sound ADD COLUMN stale INTEGER NOT NULL DEFAULT 0 CHECK (stale IN (0, 1)) /* it has another fingerprint since, and is compared anew by the next scan */;

CREATE TRIGGER fingerprints_insert AFTER INSERT ON fingerprints
WHEN EXISTS (SELECT 1 FROM same_sound WHERE recording_id = new.recording_id) BEGIN
  UPDATE same_sound SET stale = 1 WHERE first_id = (SELECT first_id FROM same_sound WHERE recording_id = new.recording_id);
END;
