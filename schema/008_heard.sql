-- What a trained network heard in each recording, beside its genre.

CREATE TABLE heard (                 -- tags of MusiCNN's networks; they are no genres
  recording_id INTEGER PRIMARY KEY REFERENCES recordings (id) ON DELETE CASCADE,
  ear TEXT NOT NULL,                 -- what heard it: a row by another one than today's is made anew from the embedding
  names TEXT NOT NULL,               -- JSON list: the likely tags, the likeliest first
  probabilities TEXT NOT NULL        -- JSON: by vocabulary (MSD, MTT) the probability of each tag that is not unlikely
) STRICT;
