"""How a tag says that a person chose its genre. Apart from the reading of tags, which loads mutagen."""

CORRECTION = "correction"  # the model named in INDEXER_GENRE then
