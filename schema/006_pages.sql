-- For the pages: the counts of a genre are told from an index alone.

DROP INDEX predictions_genre;
CREATE INDEX predictions_genre ON predictions (head_id, genre, confidence, decided);
