-- Encoders that know words: their audio vectors are cached like those of an encoder of its own.

ALTER TABLE encoders ADD COLUMN words_of TEXT /* id of the encoder whose pass makes these audio vectors, which share a space with vectors of text; NULL: an encoder's own vectors */;
