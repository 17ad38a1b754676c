-- Music that was heard roughly, from a few units of each recording, until it is heard whole.

ALTER TABLE embeddings ADD COLUMN rough INTEGER NOT NULL DEFAULT 0 CHECK (rough IN (0, 1)) /* of a few units only; a later scan hears all of them */;
ALTER TABLE predictions ADD COLUMN rough INTEGER NOT NULL DEFAULT 0 CHECK (rough IN (0, 1)) /* by such a vector */;

CREATE INDEX embeddings_rough ON embeddings (recording_id) WHERE rough;
