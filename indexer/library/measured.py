"""What was measured in a recording, as SQL over rows of ``analysis a``, ``predictions p`` and ``recordings r``.

The tempo is the one that suits the genres of the head in use best, else the likeliest by the sound alone. The pages
show it with the tag's beside it. For the decks (exports, playlists that stay true, what mixes well) the tag's word
comes first, as with genres: the user's, or what a DJ program made of it; not what we wrote there ourselves.
"""

from indexer.analysis.bandwidth import LOSSLESS_CODECS
from indexer.analysis.camelot import parse_key

MEASURED_JOIN = "LEFT JOIN analysis a ON a.recording_id = f.recording_id"
TEMPO_BPM = "round(coalesce(p.tempo_bpm, a.tempo_bpm), 2)"
TEMPO_CONFIDENCE = "round(CASE WHEN p.tempo_bpm IS NULL THEN a.tempo_confidence ELSE p.tempo_confidence END, 4)"
# Whether a lossless file was lossy once; NULL for other files, and where it was not measured.
LOSSY_SUSPECT = "CASE WHEN r.codec IN ({}) THEN a.lossy_edge END".format(
    ", ".join(f"'{codec}'" for codec in sorted(LOSSLESS_CODECS))
)
# Tempo as a tag states it, where that can be one.
TAG_BPM = "CASE WHEN t.bpm BETWEEN 1 AND 999 THEN t.bpm END"
# Tempo and key of the tag where they are somebody else's word.
THEIR_BPM = f"CASE WHEN CAST(json_extract(t.indexer_added, '$.added.BPM') AS REAL) IS NOT t.bpm THEN {TAG_BPM} END"
THEIR_KEY = "CASE WHEN json_extract(t.indexer_added, '$.added.INITIALKEY') IS NOT t.musical_key THEN t.musical_key END"
DECK_BPM = f"coalesce({THEIR_BPM}, {TEMPO_BPM})"


def deck_key(theirs: str | None, measured: str | None) -> str | None:
    """The key for the decks: somebody else's as it stands in the tag, where it is one, else the measured one."""
    return theirs if parse_key(theirs) else measured
