-- What learning needs: encoders that join others, units in compact form, why a sure head did not decide, tracks of two genres.

ALTER TABLE encoders ADD COLUMN parts TEXT /* JSON list of encoder ids, for one that joins others; NULL: a plain one */;
ALTER TABLE encoders ADD COLUMN changes INTEGER NOT NULL DEFAULT 0 /* counts every change of its embeddings, so that a copy knows whether it is stale */;
CREATE TRIGGER embeddings_insert AFTER INSERT ON embeddings BEGIN
  UPDATE encoders SET changes = changes + 1 WHERE id = new.encoder_id;
END;
CREATE TRIGGER embeddings_update AFTER UPDATE ON embeddings BEGIN
  UPDATE encoders SET changes = changes + 1 WHERE id = new.encoder_id;
END;
CREATE TRIGGER embeddings_delete AFTER DELETE ON embeddings BEGIN
  UPDATE encoders SET changes = changes + 1 WHERE id = old.encoder_id;
END;

ALTER TABLE embeddings ADD COLUMN course BLOB /* how the units differ from their mean, of low rank; NULL: not kept */;
ALTER TABLE predictions ADD COLUMN reason TEXT /* why it is not decided, where that is not the confidence */;
ALTER TABLE predictions ADD COLUMN second_genre TEXT /* another genre that a good part of the recording's units is of */;
