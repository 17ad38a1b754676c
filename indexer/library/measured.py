"""What was measured in a recording, as SQL over rows of ``analysis a``, ``predictions p`` and ``recordings r``.

The tempo is the one that suits the genres of the head in use best, else the likeliest by the sound alone.
"""

from indexer.analysis.bandwidth import LOSSLESS_CODECS

MEASURED_JOIN = "LEFT JOIN analysis a ON a.recording_id = f.recording_id"
TEMPO_BPM = "round(coalesce(p.tempo_bpm, a.tempo_bpm), 2)"
TEMPO_CONFIDENCE = "round(CASE WHEN p.tempo_bpm IS NULL THEN a.tempo_confidence ELSE p.tempo_confidence END, 4)"
# Whether a lossless file was lossy once; NULL for other files, and where it was not measured.
LOSSY_SUSPECT = "CASE WHEN r.codec IN ({}) THEN a.lossy_edge END".format(
    ", ".join(f"'{codec}'" for codec in sorted(LOSSLESS_CODECS))
)
# Tempo as a tag states it, where that can be one.
TAG_BPM = "CASE WHEN t.bpm BETWEEN 1 AND 999 THEN t.bpm END"
