"""The page of one track: its file, prediction, tags and journal.

Owns the data of a track, as page and JSON. Reads the library; what a person says goes to indexer.web.correct.
"""

import json
from typing import Any

from datasette.utils import tilde_decode
from datasette.utils.asgi import NotFound, Response
from markupsafe import Markup, escape

from indexer.analysis.tempo_choice import agreement
from indexer.learn import corrections
from indexer.library import label_sets
from indexer.library.measured import LOSSY_SUSPECT, MEASURED_JOIN, TEMPO_BPM, TEMPO_CONFIDENCE
from indexer.library.states import ROUGH
from indexer.library.whose_word import LABEL, LABEL_SOURCE
from indexer.web.context import ask, library, number, page, rows, settings_of
from indexer.web.guard import STRICT_POLICY
from indexer.web.names import track_name

_TRACK = f"""
SELECT f.id, f.recording_id, f.path_text AS path, f.container, f.size, f.state,
  coalesce(CASE WHEN f.state <> 'ready' THEN f.reason END, r.reason) AS reason,
  CASE WHEN f.state = 'ready' THEN f.reason END AS left_alone, f.first_seen, f.last_seen,
  o.path_text AS root, r.duration_s, r.codec, r.sample_rate_hz, r.channels, t.title, t.artist, t.album, t.album_artist,
  t.year, t.bpm AS tag_bpm, t.musical_key AS tag_key, {TEMPO_BPM} AS tempo_bpm, {TEMPO_CONFIDENCE} AS tempo_confidence,
  a.key, a.key_name, round(a.key_confidence, 4) AS key_confidence, a.loudness_lufs, a.bandwidth_hz,
  {LOSSY_SUSPECT} AS lossy_suspect, a.measured,
  t.record_label, t.comment, t.genre AS tag_genre, t.indexer_genre, t.dj_data, p.genre, p.confidence, p.threshold,
  p.decided, p.reason AS undecided_reason,
  p.second_genre, {ROUGH} AS rough, {LABEL} AS label, {LABEL_SOURCE} AS label_source, w.probabilities AS heard,
  round(w.electronic, 4) AS electronic, h.name AS head, h.labels,
  n.name AS encoder
FROM files f LEFT JOIN roots o ON o.id = f.root_id LEFT JOIN recordings r ON r.id = f.recording_id
LEFT JOIN tags t ON t.file_id = f.id
LEFT JOIN heard w ON w.recording_id = f.recording_id
LEFT JOIN heads h ON h.in_use = 1 LEFT JOIN encoders n ON n.id = h.encoder_id
LEFT JOIN predictions p ON p.recording_id = f.recording_id AND p.head_id = h.id
{MEASURED_JOIN}
WHERE f.id = :id"""


async def details(datasette: Any, file_id: int | None) -> dict[str, Any] | None:
    """Everything that a track's page shows; None when there is no such track."""
    found = await rows(datasette, _TRACK, {"id": file_id})
    if not found:
        return None
    track = found[0]
    recording = {"recording": track["recording_id"]}
    track["labels"] = json.loads(track["labels"] or "[]")
    track["indexer_genre"] = json.loads(track["indexer_genre"]) if track["indexer_genre"] else None
    track["heard"] = (json.loads(track["heard"]) if track["heard"] else None) or None
    track["measured"] = json.loads(track["measured"] or "{}")
    tempi = [bpm for bpm in (track["tempo_bpm"], track["tag_bpm"]) if bpm]
    track["tempo_agreement"] = agreement(*tempi) if len(tempi) == 2 else None
    scores = await rows(
        datasette,
        "SELECT s.genre, s.probability FROM scores s JOIN heads h ON h.id = s.head_id AND h.in_use = 1"
        " WHERE s.recording_id = :recording",
        recording,
    )
    track["scores"] = {row["genre"]: round(row["probability"], 4) for row in scores}
    track["timeline"] = _segments(
        track["labels"],
        await rows(
            datasette,
            "SELECT l.unit_s, l.scores FROM timeline l JOIN heads h ON h.id = l.head_id AND h.in_use = 1 WHERE"
            " l.recording_id = :recording",
            recording,
        ),
    )
    track["corrections"] = await rows(
        datasette,
        "SELECT genre, corrected_at, corrected_by FROM corrections WHERE recording_id = :recording ORDER BY id DESC",
        recording,
    )
    track["sets"] = await ask(datasette, lambda conn: label_sets.of_recording(conn, recording["recording"]))
    track["also_at"] = await rows(
        datasette,
        "SELECT id, path_text AS path, state FROM files WHERE recording_id = :recording AND id <> :id ORDER BY"
        " path LIMIT 50",
        {**recording, "id": file_id},
    )
    track["journal"] = [
        {**row, "before": json.loads(row["before"] or "[]"), "after": json.loads(row["after"] or "[]")}
        for row in await rows(
            datasette,
            "SELECT written_at, action, state, reason, before, after, run_id FROM tag_writes WHERE file_id = :id"
            " ORDER BY id DESC LIMIT 100",
            {"id": file_id},
        )
    ]
    return track


def _segments(labels: list[str], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stored timeline as `indexer classify --json` writes it."""
    if not found or not labels:
        return []
    scores, unit_s = found[0]["scores"], found[0]["unit_s"]
    return [
        {
            "start_s": round(n * unit_s, 2),
            "scores": {label: round(scores[n * len(labels) + place] / 255, 3) for place, label in enumerate(labels)},
        }
        for n in range(len(scores) // len(labels))
    ]


async def track_page(request: Any, datasette: Any) -> Any:
    """`/<library>/tracks/<id>`, and the same as JSON."""
    if tilde_decode(request.url_vars["database"]) not in (library(datasette).name, library(datasette).route):
        raise NotFound("there is no such library here")
    track = await details(datasette, number(request.url_vars["id"]))
    if track is None:
        raise NotFound("there is no track with this number")
    if request.url_vars["format"]:
        return Response.json(track, default=str)
    settings = settings_of(datasette)
    genres = await ask(datasette, corrections.genres)
    if settings is not None:
        for one in track["sets"]:  # what nobody has said yet can be said, too
            told = settings.label_sets.get(one["set"])
            one["labels"] = sorted({*one["labels"], *(told.labels if told else ())})
    name = track_name(track["artist"], track["title"], track["path"])
    shown = await page(
        datasette,
        request,
        "track.html",
        {
            "track": track,
            "name": name,
            "genres": genres,
            "writes_tags": settings is not None and settings.write_tags != "off",
            "chart": {
                **{key: track[key] for key in ("scores", "threshold", "labels", "timeline", "duration_s", "id")},
                "reason": track["undecided_reason"],
            },
        },
    )
    shown.headers["content-security-policy"] = STRICT_POLICY
    return shown


def link(datasette: Any, row: Any, value: Any) -> Any:
    """A track's id as a link to its page, in the view `tracks` and the queries made from it; None elsewhere."""
    if not {"path", "id"} <= {*row.keys()} or not isinstance(value, int):
        return None
    return Markup('<a href="{}">{}</a>').format(address(datasette, value), escape(value))


def words(value: Any) -> Any:
    """The tags in the column `heard` of the view `tracks`, without JSON's signs; None for another value."""
    try:
        found = json.loads(value)
    except (TypeError, ValueError):
        return None
    if not isinstance(found, list):
        return None
    return Markup('<span class="ix-words">{}</span>').format(", ".join(map(str, found)))


def address(datasette: Any, file_id: int) -> str:
    """The address of a track's page."""
    return str(datasette.urls.path(f"{datasette.urls.database(library(datasette).name)}/tracks/{file_id}"))


ROUTES = [(r"/(?P<database>[^/]+)/tracks/(?P<id>[^/]+?)(?P<format>\.json)?$", track_page)]
