-- Which drive a folder lay on, so that another one in its place is not taken for it.

ALTER TABLE roots ADD COLUMN dev INTEGER /* device number of the folder at its last healthy scan; NULL: not known */;
