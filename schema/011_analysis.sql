-- What is measured in each recording beside its genre: tempo, key, loudness, where its spectrum ends.

CREATE TABLE analysis (              -- made in the pass that decodes for the encoder; of known recordings later
  recording_id INTEGER PRIMARY KEY REFERENCES recordings (id) ON DELETE CASCADE,
  version INTEGER NOT NULL,          -- of the measurements; a row of another version is made anew
  tempo_bpm REAL,                    -- the likeliest by the sound alone; the genre may choose another, see predictions
  tempo_confidence REAL,             -- 0 to 1
  key TEXT,                          -- on the Camelot wheel: 8A; NULL: no tonality was found
  key_name TEXT,                     -- the same key: Am
  key_confidence REAL,               -- 0 to 1
  loudness_lufs REAL,                -- integrated, ITU-R BS.1770
  bandwidth_hz INTEGER,              -- where the content of the spectrum ends
  lossy_edge INTEGER CHECK (lossy_edge IN (0, 1)), -- whether it ends there as a lossy encoder ends it
  measured TEXT NOT NULL             -- JSON: all that was measured, with the other candidates
) STRICT;

ALTER TABLE predictions ADD COLUMN tempo_bpm REAL /* the tempo that suits the head's genres best */;
ALTER TABLE predictions ADD COLUMN tempo_confidence REAL /* of that tempo, 0 to 1 */;
ALTER TABLE tags ADD COLUMN indexer_added TEXT /* our record of the tempo and key that we added, as JSON */;
