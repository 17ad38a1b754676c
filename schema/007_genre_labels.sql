-- What the user's own genre texts mean, so that every count and list says it alike.

CREATE TABLE genre_labels (          -- a genre as it stands in tags, and the label that it means by [aliases]
  genre TEXT PRIMARY KEY,            -- as in tags.genre
  label TEXT NOT NULL                -- '': it means nothing and is passed over
) STRICT, WITHOUT ROWID;
