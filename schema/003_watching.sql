-- What a daemon that runs for years needs to remember.

ALTER TABLE files ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0 /* how often reading this very content killed or hung the reader */;
