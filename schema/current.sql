CREATE INDEX corrections_recording ON corrections (recording_id);

CREATE INDEX embeddings_rough ON embeddings (recording_id) WHERE rough;

CREATE UNIQUE INDEX encoders_in_use ON encoders (in_use) WHERE in_use = 1;

CREATE INDEX files_recording ON files (recording_id);

CREATE INDEX files_root ON files (root_id);

CREATE INDEX files_state ON files (state);

CREATE UNIQUE INDEX heads_in_use ON heads (in_use) WHERE in_use = 1;

CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");

CREATE INDEX predictions_genre ON predictions (head_id, genre, confidence, decided);

CREATE INDEX same_sound_first ON same_sound (first_id);

CREATE INDEX set_corrections_recording ON set_corrections (recording_id, label_set, id);

CREATE INDEX tag_writes_file ON tag_writes (file_id);

CREATE INDEX tag_writes_open ON tag_writes (state) WHERE state = 'intended';

CREATE INDEX tag_writes_run ON tag_writes (run_id);

CREATE INDEX tags_artist ON tags (artist);

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

CREATE TABLE corrections (           -- what a person said; the newest row of a recording counts
  id INTEGER PRIMARY KEY,
  recording_id INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
  genre TEXT NOT NULL,
  corrected_at TEXT NOT NULL,
  corrected_by TEXT
) STRICT;

CREATE TABLE embeddings (            -- hidden in Datasette
  id INTEGER PRIMARY KEY,
  recording_id INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
  encoder_id TEXT NOT NULL REFERENCES encoders (id),
  vector BLOB NOT NULL,              -- little-endian float16
  units INTEGER NOT NULL, course BLOB /* how the units differ from their mean, of low rank; NULL: not kept */, rough INTEGER NOT NULL DEFAULT 0 CHECK (rough IN (0, 1)) /* of a few units only; a later scan hears all of them */,            -- how many units it is the mean of
  UNIQUE (recording_id, encoder_id)
) STRICT;

CREATE TABLE encoders (
  id TEXT PRIMARY KEY,               -- sha256 over the weights and the front end's numbers
  name TEXT NOT NULL,
  width INTEGER NOT NULL,            -- numbers in a vector
  unit_s REAL NOT NULL,              -- seconds of audio in one unit
  in_use INTEGER NOT NULL DEFAULT 0 CHECK (in_use IN (0, 1)) -- chosen by `indexer models use`
, parts TEXT /* JSON list of encoder ids, for one that joins others; NULL: a plain one */, changes INTEGER NOT NULL DEFAULT 0 /* counts every change of its embeddings, so that a copy knows whether it is stale */, words_of TEXT /* id of the encoder whose pass makes these audio vectors, which share a space with vectors of text; NULL: an encoder's own vectors */) STRICT;

CREATE TABLE files (
  id INTEGER PRIMARY KEY,
  recording_id INTEGER REFERENCES recordings (id), -- NULL while the audio could not be read
  root_id INTEGER REFERENCES roots (id) ON DELETE SET NULL, -- NULL: named by itself on the command line
  path BLOB NOT NULL UNIQUE,         -- exact bytes
  path_text TEXT NOT NULL,           -- for people
  container TEXT,                    -- by content, not by file name: mp3, flac, vorbis, opus, mp4, wav, aiff ...
  dev INTEGER NOT NULL,              -- stat of the content that the row describes
  ino INTEGER NOT NULL,
  size INTEGER NOT NULL,             -- bytes
  mtime_ns INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('ready', 'missing', 'unreadable', 'unsupported', 'deferred')),
  reason TEXT,                       -- one line: why it is not ready, or why no genre is ever written into it
  tag_policy TEXT,                   -- digest of head and write settings under which the genre tag was last settled
  first_seen TEXT NOT NULL,
  last_seen TEXT NOT NULL            -- when a scan last found it new, changed or, for the last time, there
, deaths INTEGER NOT NULL DEFAULT 0 /* how often reading this very content killed or hung the reader */) STRICT;

CREATE TABLE fingerprints (          -- of the first ten minutes of a recording; hidden in Datasette
  recording_id INTEGER PRIMARY KEY REFERENCES recordings (id) ON DELETE CASCADE,
  words BLOB NOT NULL                -- little-endian uint16, four a second; see indexer/analysis/fingerprint.py
) STRICT;

CREATE TABLE genre_labels (          -- a genre as it stands in tags, and the label that it means by [aliases]
  genre TEXT PRIMARY KEY,            -- as in tags.genre
  label TEXT NOT NULL                -- '': it means nothing and is passed over
) STRICT, WITHOUT ROWID;

CREATE TABLE heads (
  id TEXT PRIMARY KEY,               -- sha256 over the head's numbers and labels
  name TEXT NOT NULL,
  kind TEXT NOT NULL,                -- linear, audioset
  encoder_id TEXT NOT NULL REFERENCES encoders (id),
  labels TEXT NOT NULL,              -- JSON list, in the order of the head's outputs
  threshold REAL NOT NULL,           -- confidence from which a genre counts as decided
  trained_on TEXT,                   -- what it learned from
  metrics TEXT,                      -- JSON
  source TEXT,                       -- file it was read from
  created TEXT NOT NULL,
  in_use INTEGER NOT NULL DEFAULT 0 CHECK (in_use IN (0, 1)) -- the one the view `tracks` shows
) STRICT;

CREATE TABLE heard (                 -- tags of MusiCNN's networks; they are no genres
  recording_id INTEGER PRIMARY KEY REFERENCES recordings (id) ON DELETE CASCADE,
  ear TEXT NOT NULL,                 -- what heard it: a row by another one than today's is made anew from the embedding
  names TEXT NOT NULL,               -- JSON list: the likely tags, the likeliest first
  probabilities TEXT NOT NULL        -- JSON: by vocabulary (MSD, MTT) the probability of each tag that is not unlikely
, electronic REAL /* how electronic it sounds, 0 to 1 */) STRICT;

CREATE TABLE label_sets (
  name TEXT PRIMARY KEY,             -- as in [sets.NAME]; NAME, NAME_confidence and NAME_decided are columns of `tracks`
  head_id TEXT REFERENCES heads (id), -- the head that `train --set NAME` put in use; NULL: none yet
  in_use INTEGER NOT NULL DEFAULT 1 CHECK (in_use IN (0, 1)) -- whether the settings name it; the view shows those
) STRICT;

CREATE TABLE places (                -- hidden in Datasette
  recording_id INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
  encoder_id TEXT NOT NULL REFERENCES encoders (id) ON DELETE CASCADE,
  x REAL NOT NULL,                   -- along the axis of greatest variance, -1 to 1
  y REAL NOT NULL,                   -- along the second axis
  PRIMARY KEY (recording_id, encoder_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE predictions (
  recording_id INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
  head_id TEXT NOT NULL REFERENCES heads (id) ON DELETE CASCADE,
  genre TEXT NOT NULL,               -- the most probable label, decided or not
  confidence REAL NOT NULL,          -- its probability, 0 to 1
  threshold REAL NOT NULL,           -- the threshold it was held against
  decided INTEGER NOT NULL CHECK (decided IN (0, 1)), reason TEXT /* why it is not decided, where that is not the confidence */, second_genre TEXT /* another genre that a good part of the recording's units is of */, tempo_bpm REAL /* the tempo that suits the head's genres best */, tempo_confidence REAL /* of that tempo, 0 to 1 */, rough INTEGER NOT NULL DEFAULT 0 CHECK (rough IN (0, 1)) /* by such a vector */, -- confidence reaches the threshold
  PRIMARY KEY (recording_id, head_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE projections (           -- hidden in Datasette
  encoder_id TEXT PRIMARY KEY REFERENCES encoders (id) ON DELETE CASCADE,
  mean BLOB NOT NULL,                -- little-endian float32: the mean vector, joined encoders' side by side
  axes BLOB NOT NULL,                -- little-endian float32: two directions, one after the other
  explained REAL NOT NULL,           -- share of the directions' variance that the axes showed when they were computed
  recordings INTEGER NOT NULL,       -- how many there were then
  later INTEGER NOT NULL DEFAULT 0,  -- how many were placed on them since
  made_at TEXT NOT NULL              -- when the axes were computed
) STRICT;

CREATE TABLE recordings (            -- one row for each distinct sound, however many files hold it
  id INTEGER PRIMARY KEY,
  audio_sha256 TEXT NOT NULL UNIQUE, -- identity: digest of the audio payload without tags
  codec TEXT,                        -- FFmpeg's name of the codec
  sample_rate_hz INTEGER,            -- of the file, before resampling
  channels INTEGER,
  duration_s REAL,                   -- decoded length; until then what the file claims
  reason TEXT                        -- why there is no embedding although the file can be read
) STRICT;

CREATE TABLE roots (                 -- folders that were scanned
  id INTEGER PRIMARY KEY,
  path BLOB NOT NULL UNIQUE,         -- exact bytes, symbolic links resolved, no trailing slash
  path_text TEXT NOT NULL,           -- for people: control characters and bad bytes escaped
  state TEXT NOT NULL DEFAULT 'online' CHECK (state IN ('online', 'offline')),
  reason TEXT,                       -- why it is offline
  checked_at TEXT,                   -- last health check
  scanned_at TEXT                    -- last scan that walked it to the end
, dev INTEGER /* device number of the folder at its last healthy scan; NULL: not known */) STRICT;

CREATE TABLE runs (                  -- what each scan did
  id INTEGER PRIMARY KEY,
  command TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('running', 'done', 'interrupted', 'failed')),
  started_at TEXT NOT NULL,
  finished_at TEXT,
  summary TEXT                       -- JSON: the counts that `scan --json` prints
) STRICT;

CREATE TABLE same_sound (            -- one row for each recording that was compared; hidden in Datasette
  recording_id INTEGER PRIMARY KEY REFERENCES recordings (id) ON DELETE CASCADE,
  encoder_id TEXT NOT NULL REFERENCES encoders (id) ON DELETE CASCADE, -- whose embeddings were compared
  first_id INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE -- the first recording of the same sound; its own id where it is none
, agreement REAL /* share of the fingerprint's bits, 0 to 1, that agree with another recording of the same sound; NULL: found by embedding and length only, or none is the same */, stale INTEGER NOT NULL DEFAULT 0 CHECK (stale IN (0, 1)) /* it has another fingerprint since, and is compared anew by the next scan */) STRICT;

CREATE TABLE scores (
  recording_id INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
  head_id TEXT NOT NULL REFERENCES heads (id) ON DELETE CASCADE,
  genre TEXT NOT NULL,
  probability REAL NOT NULL,
  PRIMARY KEY (recording_id, head_id, genre)
) STRICT, WITHOUT ROWID;

CREATE TABLE set_corrections (       -- what a person said in a set; the newest row of a recording counts
  id INTEGER PRIMARY KEY,
  recording_id INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
  label_set TEXT NOT NULL,           -- a name in label_sets
  label TEXT NOT NULL,               -- "dark", "opener" ...
  corrected_at TEXT NOT NULL,
  corrected_by TEXT
) STRICT;

CREATE TABLE tag_writes (            -- the journal: written before the rename, settled after it
  id INTEGER PRIMARY KEY,
  file_id INTEGER REFERENCES files (id) ON DELETE SET NULL,
  run_id INTEGER REFERENCES runs (id) ON DELETE SET NULL,
  path BLOB NOT NULL,                -- exact bytes, at the time of writing
  path_text TEXT NOT NULL,
  action TEXT NOT NULL CHECK (action IN ('write', 'undo')),
  state TEXT NOT NULL CHECK (state IN ('intended', 'done', 'dropped', 'superseded', 'refused')),
  reason TEXT,                       -- why it was dropped or refused
  before TEXT,                       -- JSON list: genres that stood there
  after TEXT,                        -- JSON list: genres that stand there now
  stat_before TEXT NOT NULL,         -- JSON: dev, ino, size, mtime_ns
  stat_after TEXT,                   -- the same, of the new file; recognises our own write
  evidence TEXT,                     -- JSON: what was compared before the rename, with digests, and our own field as written
  written_at TEXT NOT NULL
) STRICT;

CREATE TABLE tags (                  -- what stands in the file, cleaned of control characters
  file_id INTEGER PRIMARY KEY REFERENCES files (id) ON DELETE CASCADE,
  title TEXT,
  artist TEXT,
  album TEXT,
  album_artist TEXT,
  year INTEGER,
  bpm REAL,
  musical_key TEXT,
  record_label TEXT,
  comment TEXT,
  genre TEXT,                        -- as found; several values joined with "; "
  indexer_genre TEXT,                -- our own field as found: JSON with genre, label, confidence, model
  dj_data TEXT                       -- programs whose data the file carries: Serato, Traktor, ...
, indexer_added TEXT /* our record of the tempo and key that we added, as JSON */, set_fields TEXT /* INDEXER_MOOD and the like, whoever wrote them, as JSON: text by field */) STRICT;

CREATE VIRTUAL TABLE tags_fts USING fts5 (
  title, artist, album, album_artist, record_label, comment, genre,
  content = 'tags', content_rowid = 'file_id'
);

CREATE TABLE timeline (              -- scores of every unit, for the chart along the track
  recording_id INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
  head_id TEXT NOT NULL REFERENCES heads (id) ON DELETE CASCADE,
  unit_s REAL NOT NULL,              -- seconds from one unit to the next
  scores BLOB NOT NULL,              -- one byte a probability (255 = 1): units x labels, row by row
  PRIMARY KEY (recording_id, head_id)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER embeddings_delete AFTER DELETE ON embeddings BEGIN
  UPDATE encoders SET changes = changes + 1 WHERE id = old.encoder_id;
END;

CREATE TRIGGER embeddings_insert AFTER INSERT ON embeddings BEGIN
  UPDATE encoders SET changes = changes + 1 WHERE id = new.encoder_id;
END;

CREATE TRIGGER embeddings_update AFTER UPDATE ON embeddings BEGIN
  UPDATE encoders SET changes = changes + 1 WHERE id = new.encoder_id;
END;

CREATE TRIGGER fingerprints_insert AFTER INSERT ON fingerprints
WHEN EXISTS (SELECT 1 FROM same_sound WHERE recording_id = new.recording_id) BEGIN
  UPDATE same_sound SET stale = 1 WHERE first_id = (SELECT first_id FROM same_sound WHERE recording_id = new.recording_id);
END;

CREATE TRIGGER places_delete AFTER DELETE ON embeddings BEGIN
  DELETE FROM places WHERE recording_id = old.recording_id AND encoder_id IN
    (SELECT id FROM encoders WHERE id = old.encoder_id OR EXISTS (SELECT 1 FROM json_each(parts) WHERE value = old.encoder_id));
END;

CREATE TRIGGER places_update AFTER UPDATE OF vector ON embeddings BEGIN
  DELETE FROM places WHERE recording_id = old.recording_id AND encoder_id IN
    (SELECT id FROM encoders WHERE id = old.encoder_id OR EXISTS (SELECT 1 FROM json_each(parts) WHERE value = old.encoder_id));
END;

CREATE TRIGGER same_sound_delete AFTER DELETE ON embeddings BEGIN
  DELETE FROM same_sound WHERE recording_id = old.recording_id OR first_id = old.recording_id;
END;

CREATE TRIGGER same_sound_update AFTER UPDATE OF vector ON embeddings BEGIN
  DELETE FROM same_sound WHERE recording_id = old.recording_id OR first_id = old.recording_id;
END;

CREATE VIEW tracks AS
SELECT f.id, t.title, t.artist, t.album,
  coalesce((SELECT c.genre FROM corrections c WHERE c.recording_id = f.recording_id ORDER BY c.id DESC LIMIT 1), CASE WHEN json_extract(t.indexer_genre, '$.genre') IS t.genre AND json_extract(t.indexer_genre, '$.model') IS NOT 'correction' THEN NULL ELSE nullif(coalesce((SELECT g.label FROM genre_labels g WHERE g.genre = t.genre), t.genre), '') END, CASE WHEN p.decided THEN p.genre END) AS label,
  CASE WHEN (SELECT c.genre FROM corrections c WHERE c.recording_id = f.recording_id ORDER BY c.id DESC LIMIT 1) IS NOT NULL THEN 'said' WHEN CASE WHEN json_extract(t.indexer_genre, '$.genre') IS t.genre AND json_extract(t.indexer_genre, '$.model') IS NOT 'correction' THEN NULL ELSE nullif(coalesce((SELECT g.label FROM genre_labels g WHERE g.genre = t.genre), t.genre), '') END IS NOT NULL THEN 'tag' WHEN p.decided THEN 'head' END AS label_source,
  round(r.duration_s, 2) AS duration_s, round(coalesce(p.tempo_bpm, a.tempo_bpm), 2) AS tempo_bpm, round(CASE WHEN p.tempo_bpm IS NULL THEN a.tempo_confidence ELSE p.tempo_confidence END, 4) AS tempo_confidence,
  a.key, a.key_name, round(a.key_confidence, 4) AS key_confidence, a.loudness_lufs,
  t.bpm AS tag_bpm, t.musical_key AS tag_key, t.year,
  p.genre, round(p.confidence, 4) AS confidence, p.decided, p.second_genre,
  coalesce(p.rough, EXISTS (SELECT 1 FROM embeddings e WHERE e.rough AND e.recording_id = f.recording_id)) AS rough,
  (SELECT c.genre FROM corrections c WHERE c.recording_id = f.recording_id ORDER BY c.id DESC LIMIT 1) AS corrected,
  t.genre AS tag_genre, w.names AS heard, round(w.electronic, 4) AS electronic,
  (SELECT round(s.probability, 4) FROM scores s WHERE s.recording_id = f.recording_id AND s.head_id = h.id AND s.genre = 'ambient') AS "ambient",
  (SELECT round(s.probability, 4) FROM scores s WHERE s.recording_id = f.recording_id AND s.head_id = h.id AND s.genre = 'drum and bass') AS "drum and bass",
  (SELECT round(s.probability, 4) FROM scores s WHERE s.recording_id = f.recording_id AND s.head_id = h.id AND s.genre = 'house') AS "house",
  (SELECT round(s.probability, 4) FROM scores s WHERE s.recording_id = f.recording_id AND s.head_id = h.id AND s.genre = 'techno') AS "techno",
  (SELECT round(s.probability, 4) FROM scores s WHERE s.recording_id = f.recording_id AND s.head_id = h.id AND s.genre = 'trance') AS "trance",
  t.record_label, t.dj_data, f.container, r.codec, r.sample_rate_hz, a.bandwidth_hz,
  CASE WHEN r.codec IN ('alac', 'ape', 'double', 'flac', 'float', 'mlp', 'pcm_16', 'pcm_24', 'pcm_32', 'pcm_f32be', 'pcm_f32le', 'pcm_f64be', 'pcm_f64le', 'pcm_s16be', 'pcm_s16le', 'pcm_s24be', 'pcm_s24le', 'pcm_s32be', 'pcm_s32le', 'shorten', 'tak', 'truehd', 'tta', 'wavpack', 'wmalossless') THEN a.lossy_edge END AS lossy_suspect, f.size,
  f.path_text AS path, f.state, coalesce(f.reason, r.reason, p.reason) AS reason, f.first_seen, f.recording_id
FROM files f
LEFT JOIN tags t ON t.file_id = f.id
LEFT JOIN recordings r ON r.id = f.recording_id
LEFT JOIN heads h ON h.in_use = 1
LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id
LEFT JOIN heard w ON w.recording_id = f.recording_id
LEFT JOIN analysis a ON a.recording_id = f.recording_id;
