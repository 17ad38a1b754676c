-- Whether each recording is electronic music at all; AudioSet's head tells it too, and knows no tags.

ALTER TABLE heard ADD COLUMN electronic REAL /* how electronic it sounds, 0 to 1 */;
