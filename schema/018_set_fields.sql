-- What a label set says stands in the files, too, where the settings ask for it.

ALTER TABLE tags ADD COLUMN set_fields TEXT /* INDEXER_MOOD and the like, whoever wrote them, as JSON: text by field */;
