-- Recordings that are one piece of music in other encodings: their audio differs, their embeddings hardly do.

CREATE TABLE same_sound (            -- one row for each recording that was compared; hidden in Datasette
  recording_id INTEGER PRIMARY KEY REFERENCES recordings (id) ON DELETE CASCADE,
  encoder_id TEXT NOT NULL REFERENCES encoders (id) ON DELETE CASCADE, -- whose embeddings were compared
  first_id INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE -- the first recording of the same sound; its own id where it is none
) STRICT;

CREATE INDEX same_sound_first ON same_sound (first_id);

CREATE TRIGGER same_sound_delete AFTER DELETE ON embeddings BEGIN
  DELETE FROM same_sound WHERE recording_id = old.recording_id OR first_id = old.recording_id;
END;

CREATE TRIGGER same_sound_update AFTER UPDATE OF vector ON embeddings BEGIN
  DELETE FROM same_sound WHERE recording_id = old.recording_id OR first_id = old.recording_id;
END;
