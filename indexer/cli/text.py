"""The text that commands print for a person: pure functions of their JSON results."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from indexer.config import set_field
from indexer.wording import HOW_SAME, artist_and_title, count, duration

_LEFT_OUT = {
    "hidden": "hidden",
    "system": "of the system",
    "ignored": "by the setting ignore",
    "link": "links (none is followed: name the folder that they lead to)",
}
NEXT_RELABEL = "next: `indexer relabel` classifies everything with it (`train --apply` does that, and writes the tags)"
NEXT_RELABEL_SETS = "next: `indexer relabel` classifies everything with it (`train --apply` does that)"
NEXT_RELABEL_WORDS = (
    "next: `indexer relabel` classifies everything with it; nothing is written until labels and `indexer train`"
    " make it a decision"
)
APPLY_GOES_ON = "the new head is in use; `indexer scan` goes on from here"
_INTO_FILES = {
    "off": "",
    "fill": ", and write the decided genres into files that have none",
    "replace": ", and write the decided genres into the files in place of theirs",
    "append": ", and write the decided genres into the files beside theirs",
}
SHOWN_TAGS = 8  # in the text of `classify`
_ENCODER_LINE = "{:1} {:17}  {:9}  {:10}  {:11}  {:>7}  {}"
SHOWN_GENRES = 20  # in the text of `status`


def genres(values: list[str] | None) -> str:
    """Genres of a tag, joined with semicolons."""
    return "; ".join(values) if values else "(none)"


def history_text(rows: list[dict[str, Any]]) -> str:
    """The result of `indexer tags history`: a line for each write to a file."""
    lines = [
        f"{row['written_at']}  {row['action']:5}  {row['state']:10}  {genres(row['before'])} -> {genres(row['after'])}"
        + "".join(f"; {field} {value}" for field, value in row["added"].items())
        + (f"  ({row['reason']})" if row["reason"] else "")
        for row in rows
    ]
    return "\n".join(lines or ["nothing was written to this file"])


def undo_text(done: dict[str, Any]) -> str:
    """The summary of `indexer tags undo`."""
    return (
        f"{len(done['restored']):,} restored, {len(done['nothing']):,} held nothing of ours,"
        f" {len(done['refused']):,} left alone"
    ) + (f"\n{_kept_text(done['kept'])}" if done["kept"] else "")


def undo_plan_text(found: dict[str, Any]) -> str:
    """The files in which `indexer tags undo --dry-run` would undo our writes, and how many it would keep."""
    return "\n".join([*found["files"], *([_kept_text(found["kept"])] if found["kept"] else [])])


def undo_question(found: dict[str, Any]) -> str:
    """What `indexer tags undo --all` asks."""
    keeps = f" ({_kept_text(found['kept'])})" if found["kept"] else ""
    return f"Put back the former genre in {count(len(found['files']), 'file')}?{keeps}"


def _kept_text(files: int) -> str:
    keep, them = ("keeps", "it") if files == 1 else ("keep", "them")
    return f"{count(files, 'file')} {keep} the genre that you gave; `--corrections` undoes {them}, too"


def not_written_text(files: int) -> str:
    """That decided genres are not in so many files yet, and the command that writes them."""
    return (
        f"{count(files, 'decided genre')} {'is' if files == 1 else 'are'} not in the files yet: `indexer scan` or"
        f" `indexer tags apply` writes {'it' if files == 1 else 'them'} (into read-only files once they can be written)"
    )


def sets_not_written_text(files: dict[str, int]) -> list[str]:
    """That fields of label sets are not up to date in so many files, by set, and the command that writes them."""
    return [
        f"{set_field(name)} is not up to date in {count(n, 'file')}: `indexer scan` writes it"
        for name, n in files.items()
    ]


def apply_question(write_tags: str) -> str:
    """What `indexer train` asks on a terminal, under a setting of ``write_tags``."""
    return f"Classify the library with it now{_INTO_FILES[write_tags]}?"


def next_after_relabel(not_written: int) -> str:
    """What `indexer relabel` says to do next, where something is decided."""
    if not not_written:
        return "next: `indexer serve --open` shows the result"
    return (
        f"next: `indexer scan --dry-run` lists the {count(not_written, 'genre')} to be written into files,"
        " `indexer scan` writes them"
    )


def relabel_text(found: dict[str, Any]) -> str:
    """The summary of `indexer relabel`; where nothing is decided, why and what to do."""
    sets = [
        f"{name}: {count(one['classified'], 'recording')} classified with {one['head']}, {one['undecided']:,} undecided"
        for name, one in found["sets"].items()
    ]
    sets += sets_not_written_text(found["sets_not_written"])
    return "\n".join([*([_genres_relabelled(found)] if found["head"] else []), *sets, *found["problems"]])


def _genres_relabelled(found: dict[str, Any]) -> str:
    line = (
        f"{count(found['classified'], 'recording')} classified with {found['head']} in {found['elapsed_s']:.1f} s,"
        f" {found['undecided']:,} undecided"
    )
    if found["undecided"] < found["classified"] or not found["classified"]:
        return line
    if found["kind"] == "words":
        return f"{line}\nnothing is decided: {_first_guess()}"
    if found["not_electronic"] == found["classified"]:
        why = "none of them sounds electronic"
    elif found["unlike"] + found["not_electronic"] == found["classified"]:
        why = "each is unlike everything that the head learned from" + (
            " or does not sound electronic" if found["not_electronic"] else ""
        )
    else:
        why = f"the surest is {found['surest']:.1%} sure, and a genre counts from {found['threshold']:.1%} on"
    return (
        f"{line}\nnothing is decided: {why}; more labels help (`indexer suggest` lists the most useful tracks),"
        " or a lower min_confidence in the settings"
    )


def _first_guess() -> str:
    """Why a head by words decides nothing."""
    from indexer.heads.decide import FIRST_GUESS  # numpy, which few commands need

    return FIRST_GUESS


def demo_text(found: dict[str, Any]) -> str:
    """The end of `indexer demo`: where to look at the library."""
    return f"done in {found['elapsed_s']:.0f} s; look at it: indexer serve --open --db '{found['folder']}/library.db'"


def scan_text(r: dict[str, Any], *, verbose: bool = False) -> str:
    """The summary of `indexer scan`: counts, time, and a line for each worker of a cluster; verbose: the bottleneck."""
    embedded = f"{count(r['embedded'], 'recording')} embedded ({duration(r['audio_s'])} of audio)"
    lines = [f"{count(r['files'], 'file')}: {embedded}, {r['cached']:,} known already"]
    if r["rough"] or r["refined"] or r["rough_left"]:
        later = (
            f"; {r['rough_left']:,} are still to be heard whole, which the next scan does" if r["rough_left"] else ""
        )
        lines.append(f"{r['rough']:,} heard roughly first, {r['refined']:,} heard whole afterwards{later}")
    if r["classified"]:
        lines.append(
            f"{r['classified']:,} classified, {r['undecided']:,} of them undecided;"
            f" {count(r['genres_written'], 'file')} got a genre"
            + (f", {count(r['tags_refused'], 'file')} left alone" if r["tags_refused"] else "")
        )
    if added := r["tags_written"] - r["genres_written"]:
        lines.append(f"{count(added, 'file')} got only a tempo, a key or a set's label")
    if (more := r.get("analysed", 0) - r["embedded"]) > 0:
        lines.append(f"tempo, key and loudness of {more:,} more measured")
    if r["left_alone"]:
        lines.append(f"no genre is written into {count(r['left_alone'], 'damaged file')}; `indexer status` says why")
    if r["not_written"]:
        lines.append(not_written_text(r["not_written"]))
    if r["left_out"]:
        lines.append(f"left out: {', '.join(f'{n:,} {_LEFT_OUT[why]}' for why, n in r['left_out'].items())}")
    bad = [f"{r[key]:,} {key}" for key in ("unreadable", "unsupported", "truncated", "missing") if r[key]]
    bad += [f"{r['failed_later']:,} failed"] if r["failed_later"] else []
    rate = f", {r['audio_s'] / r['elapsed_s']:.0f} times real time" if r["audio_s"] else ""
    if rate and verbose:
        rate += f" on {r['device']} ({r['precision']}, {r['engine']})"
    lines.append(
        f"{', '.join(bad) + '; ' if bad else ''}{r['elapsed_s']:.1f} s{rate}"
        + ("; interrupted, run it again to go on" if r["interrupted"] else "")
    )
    if verbose and r["audio_s"]:
        shares = sorted(r["busy"].items(), key=lambda part: -part[1])
        lines.append(f"bottleneck: {shares[0][0]} (busy: {', '.join(f'{part} {share:.0%}' for part, share in shares)})")
    lines += [_worker_text(w, r["elapsed_s"]) for w in r.get("workers", ()) if w["inspected"] or w["embedded"]]
    return "\n".join(lines)


def _worker_text(w: dict[str, Any], elapsed_s: float) -> str:
    where = f" on {w['device']} ({', '.join(sorted(set(w['precision'].values())))})" if w["device"] else ""
    return (
        f"{w['address']}: {w['inspected']:,} read, {w['embedded']:,} embedded, {w['embedded'] / elapsed_s:.1f} a"
        f" second{where}" + (f", {w['state']}" if w["state"] != "ready" else "")
    )


def workers_text(workers: list[dict[str, Any]]) -> str:
    """For the progress line: how many workers are ready, and the steps per second of each."""
    rates = [w["per_s"] for w in workers if w["state"] == "ready"]
    return (
        f"; {count(len(rates), 'worker')}:"
        f" {' '.join(f'{rate:.1f}' for rate in rates[:8])}{' ...' if rates[8:] else ''} a second"
        if workers
        else ""
    )


def cluster_text(found: dict[str, Any]) -> str:
    """The result of `indexer cluster check`: a line for each worker, with the reason when it gets no work."""
    lines = [
        (
            f"{found['cluster']}, {found['encoder'] or 'no encoder'},"
            f" {', '.join(sorted(set(found['precision'].values()))) or 'no precision'}"
        )
    ]
    for w in found["workers"]:
        name = "" if w["name"] == w["address"] else f" ({w['name']})"
        if w["state"] == "ready":
            does = (
                f"{w['device']}, {', '.join(sorted(set(w['precision'].values())))}, {w['engine']}"
                if w["device"]
                else "reads only"
            )
            lines.append(
                f"+ {w['address']}{name}: agrees; {does}, {count(w['jobs'], 'reader')}, indexer {w['version']} on"
                f" {w['host']}"
            )
        else:
            lines.append(f"! {w['address']}{name}: {w['reason'] or 'did not answer'}")
    return "\n".join([*lines, f"{count(found['agree'], 'worker')} of {len(found['workers']):,} agree"])


def preview_text(found: dict[str, Any]) -> str:
    """The result of a dry run: a line with a sign for each new, changed, ... file, and the genres to be written."""
    names = {"new": "+", "changed": "*", "back": "<", "vanished": "-", "unlisted": "!"}
    lines = [f"{names[kind]} {path}" for kind, paths in found["paths"].items() for path in paths]
    lines += [f"= {write['path']}: {', '.join(_changes(write))}" for write in found["writes"]]
    lines.append(
        ", ".join(
            f"{found[kind]:,} {kind}"
            for kind in ("new", "changed", "unchanged", "back", "vanished", "unlisted")
            if found[kind]
        )
        or "no files"
    )
    lines.append(f"{count(found['tag_writes'], 'tag')} to write into files that are known already")
    return "\n".join(lines)


def _changes(write: dict[str, Any]) -> Iterator[str]:
    """What a planned write changes in a file."""
    if write["confidence"] is not None:
        yield f"{genres(write['before'])} -> {genres(write['after'])} ({write['confidence']:.0%})"
    for name, text in write.get("adds", {}).items():
        yield f"{name} is taken away" if text is None else f"{name} {text} is added"


def classify_text(result: dict[str, Any]) -> str:
    """A file of `indexer classify`: its genre, likely tags, and a bar for each genre, the most probable first."""
    from indexer.encoders.musicnn.tags import named  # numpy and weights, which few commands need

    sure = f"{result['genre']} ({result['confidence']:.0%})"
    unsure = f"perhaps {sure}, undecided: {result['reason'] or 'under {:.0%}'.format(result['threshold'])}"
    also = f", parts are {result['second_genre']}" if result["second_genre"] else ""
    lines = [f"{result['path']}: {sure if result['decided'] else unsure}{also}"]
    if result["damage"]:
        lines.append(f"  {result['damage']}")
    if result["heard"]:
        lines.append(f"  heard: {', '.join(named(result['heard'])[:SHOWN_TAGS]) or '-'}")
    if result["electronic"] is not None:
        lines.append(f"  electronic: {result['electronic']:.0%}")
    lines += [f"  {line}" for line in _measured(result)]
    width = max(len(label) for label in result["scores"])
    lines += [
        f"  {label:{width}}  {'█' * round(40 * p):40} {p:6.1%}"
        for label, p in sorted(result["scores"].items(), key=lambda s: -s[1])
    ]
    return "\n".join(lines)


def _measured(result: dict[str, Any]) -> Iterator[str]:
    """What was measured, where it could be."""
    if result["tempo_bpm"] is not None:
        yield f"tempo: {result['tempo_bpm']:.1f} BPM ({result['tempo_confidence']:.0%})"
    if result["key"] is not None:
        yield f"key: {result['key']}, {result['key_name']} ({result['key_confidence']:.0%})"
    if result["loudness_lufs"] is not None:
        yield f"loudness: {result['loudness_lufs']:.1f} LUFS"
    if result["lossy_suspect"]:
        yield f"its spectrum ends at {result['bandwidth_hz']:,} Hz as an MP3's or AAC's does: it may have been one"


def corrected_in_set_text(found: dict[str, Any]) -> str:
    """The result of `indexer correct --set`."""
    lines = [f"{f['path']}: not written into its tags: {f['reason']}" for f in found["files"] if f["reason"]]
    tagged = len(found["files"]) - len(lines)
    where = {"off": "in the library", "written": f"in the library and in the tags of {tagged:,}"}
    later = "in the library; another indexer works on it, and the next scan writes the tags"
    lines.append(
        f"{count(len(found['files']), 'file')} corrected to {found['label']} in the set {found['set']},"
        f" {where.get(found['tags'], later)}; the next `indexer train --set {found['set']}` learns from it"
    )
    return "\n".join(lines)


def correct_text(found: dict[str, Any]) -> str:
    """The result of `indexer correct`: a line for each file, then a summary."""
    lines = [
        f"{f['path']}: "
        + (
            f"not written into its tag: {f['reason'].removeprefix('genre not written: ')}"
            if f["reason"]
            else f"genre in its tag: {f['tag_genre'] or '(none)'}"
        )
        for f in found["files"]
    ]
    lines.append(
        f"{count(len(found['files']), 'file')} corrected to {found['genre']}"
        + {
            "written": "",
            "off": ' in the library; write_tags = "off" keeps it out of the tags',
            "later": " in the library; another indexer works on it now, the next scan writes the tags",
        }[found["tags"]]
        + "; the next `indexer train` learns from it"
    )
    return "\n".join(lines)


def status_text(s: dict[str, Any]) -> str:
    """The result of `indexer status`: the library, its models and genres, failures, last run and daemon."""
    lines = [f"library    {s['db']} ({s['db_bytes'] / 1e6:.1f} MB)"]
    lines += [
        f"root       {r['path']} ({r['state']}{': ' + r['reason'] if r['reason'] else ''}; scanned"
        f" {r['scanned_at'] or 'never'})"
        for r in s["roots"]
    ]
    lines.append(
        "files      "
        + (", ".join(f"{n:,} {state}" for state, n in s["files"].items()) or "none")
        + (f"; {s['truncated']:,} truncated" if s["truncated"] else "")
    )
    lines.append(
        f"embedded   {s['embedded']:,} of {s['recordings']:,} recordings with"
        f" {s['encoder']['name'] + ' (sound to numbers)' if s['encoder'] else 'no encoder'}"
        + (f"; {s['rough']:,} of them heard roughly so far" if s["rough"] else "")
    )
    if s["head"]:
        from_words = s["head"]["kind"] == "words"
        decides = _first_guess() if from_words else f"decided from {s['head']['decided_from']:.0%}"
        lines.append(f"head       {s['head']['name']} (numbers to a genre; {decides})")
    if n := s["unclassified"]:
        lines.append(f"  {count(n, 'recording')} not classified by it yet: `indexer relabel`, or the next scan, does")
    shown = s["genres"][:SHOWN_GENRES]
    width = max((min(len(g["genre"]), 30) for g in shown), default=0)
    lines += [_genre_line(g, max(width, 15)) for g in shown]
    if len(s["genres"]) > SHOWN_GENRES:
        lines.append(f"  and {count(len(s['genres']) - SHOWN_GENRES, 'more genre')}")
    lines.append(f"tags       {count(s['tags_written'], 'file')} with a genre of ours")
    if s["not_written"]:
        lines.append("  " + not_written_text(s["not_written"]))
    lines += ["  " + line for line in sets_not_written_text(s["sets_not_written"])]
    lines += [
        f"  {f['files']:5,} x {f['reason']}" + (f", such as {f['example']}" if f["files"] > 1 else f": {f['example']}")
        for f in (*s["left_alone"], *s["failures"])
    ]
    if last := s["last_run"]:
        at = last["finished_at"] or last["started_at"]
        goes_on = "; `indexer scan` goes on" if last["state"] == "interrupted" else ""
        lines.append(f"last run   {last['state']} at {at}{goes_on}")
    if watch := s.get("watch"):
        lines.append(
            f"watch      {watch['state']}, process {watch['pid']}"
            + (f" ({watch['reason']})" if watch.get("reason") else "")
            + (f"; {watch['done']:,} of {watch['total']:,} files" if watch.get("total") else "")
            + (f", {duration(watch['eta_s'])} left" if watch.get("eta_s") else "")
            + (f"; next scan {watch['next_scan_at']}" if watch.get("next_scan_at") else "")
        )
        for root in watch.get("roots", ()):
            lines.append(f"  {root['path']}: {root['mode']}" + (f", {root['reason']}" if root["reason"] else ""))
            lines += [f"    {problem}" for problem in root["problems"]]
    return "\n".join(lines)


def _genre_line(g: dict[str, Any], width: int) -> str:
    """A genre, its recordings, and by whose word they are of it."""
    whose = {"said": g["said"], "in tags": g["tag"], "decided": g["head"], "unsure": g["recordings"] - g["decided"]}
    return f"  {g['genre']:{width}} {g['recordings']:7,}  " + ", ".join(
        f"{n:,} {word}" for word, n in whose.items() if n
    )


def check_text(found: dict[str, Any]) -> str:
    """The result of `indexer doctor` without files: the problems of the library with their remedies."""
    return "\n".join([f"! {p['problem']}\n  {p['remedy']}" for p in found["problems"]] or [f"{found['db']}: sound"])


def rebuild_text(found: dict[str, Any]) -> str:
    """The result of `indexer doctor --rebuild`: saved and lost rows by table, and what to do next."""
    lost = {None: "the rest lost", 0: "none lost"}
    lines = [
        f"{table:11} {n['saved']:9,} saved, " + (lost.get(n["lost"]) or f"{n['lost']:,} lost")
        for table, n in found["tables"].items()
    ]
    return "\n".join(
        [
            *lines,
            f"the damaged library is kept as {found['damaged']}",
            (
                "the next `indexer scan` reads every file again, and embeds only what was lost; a running `indexer"
                " serve` is to be started anew"
            ),
        ]
    )


def export_text(found: dict[str, Any]) -> str:
    """The result of `indexer export`: counts, folder, size and time."""
    parts = ", ".join(
        count(found[table], table[:-1]) for table in ("recordings", "files", "embeddings", "predictions", "corrections")
    )
    return f"{parts} in {found['folder']} ({found['bytes'] / 1e6:.1f} MB), {found['elapsed_s']:.1f} s"


def playlists_text(found: dict[str, Any]) -> str:
    """The playlists that `indexer export` wrote, and the steps that are left to do in the DJ programs."""
    from indexer.exchange.export import next_steps

    lines = [
        f"{count(one['playlists'], 'playlist')} of {count(one['tracks'], 'track')} in {one['to']}"
        for one in (found[form] for form in ("rekordbox", "m3u", "serato") if form in found)
    ]
    return "\n".join([*lines, *next_steps(found)])


def export_notes(found: dict[str, Any]) -> list[str]:
    """What `indexer export` could not write as it is, a line each."""
    notes = list(found.get("problems", ()))
    if found.get("damaged"):
        notes.append(
            f"{count(found['damaged'], 'embedding')} left out (damaged); `indexer scan --force` makes them again"
        )
    if found.get("not_utf8"):
        notes.append(
            f"{count(found['not_utf8'], 'track')} with a path that is no UTF-8: DJ programs may not find them; give"
            " the files other names"
        )
    if left_out := found.get("m3u", {}).get("left_out"):
        notes.append(f"m3u: left out {left_out:,} times, the path has a line break")
    if left_out := found.get("serato", {}).get("left_out"):
        notes.append(f"serato: left out {left_out:,} times, the path is no UTF-8")
    return notes


def prune_text(found: dict[str, Any]) -> str:
    """The plan of `indexer prune`: what is forgotten, and what offline roots keep."""
    lines = [f"- {path}" for path in found["paths"]]
    if found["files"] > len(found["paths"]):
        lines.append(f"  and {found['files'] - len(found['paths']):,} more")
    lines += [f"! {root}: offline, its {count(n, 'missing file')} stay" for root, n in found["kept"].items()]
    lines.append(
        f"{count(found['files'], 'missing file')}, {count(found['recordings'], 'recording')} that no other file holds"
        + (
            f"; {count(found['embeddings'], 'embedding')} and {count(found['predictions'], 'prediction')} of"
            " encoders and heads not in use"
            if found["embeddings"] or found["predictions"]
            else ""
        )
    )
    return "\n".join(lines)


def forget_text(found: dict[str, Any]) -> str:
    """The plan of `indexer forget`: the roots and files that are forgotten, and what comes back."""
    lines = [f"- root {root}" for root in found["roots"]] + [f"- {path}" for path in found["paths"]]
    if found["files"] > len(found["paths"]):
        lines.append(f"  and {found['files'] - len(found['paths']):,} more")
    lines += [
        f"! {place}: the next scan of {root} takes it in again, unless the setting ignore leaves it out"
        for place, root in found["comes_back"].items()
    ]
    lines.append(
        f"{count(len(found['roots']), 'root')}, {count(found['files'], 'file')},"
        f" {count(found['recordings'], 'recording')} that no other file holds"
        + (f", {found['corrections']:,} of them with a genre that you gave" if found["corrections"] else "")
        + "; the files and their tags stay as they are"
    )
    return "\n".join(lines)


def encoders_text(kinds: list[dict[str, Any]]) -> str:
    """Which encoder for whom: a line for each kind of encoder."""
    lines = [_ENCODER_LINE.format("", "encoder", "paid work", "licence", "download", "speed", "knows without labels")]
    lines += [
        _ENCODER_LINE.format(
            "*" if kind["recommended"] else "",
            kind["name"],
            "yes" if kind["paid_work"] else "no",
            kind["licence"],
            f"from {kind['download_mb']} MB" if kind["download_mb"] else "none",
            f"{kind['times_real_time']:,} x",
            kind["without_labels"],
        )
        for kind in kinds
    ]
    return "\n".join(
        [*lines, "* recommended. speed: seconds of music a second on 2 cores; `indexer bench` measures yours"]
    )


def models_text(found: dict[str, Any]) -> str:
    """The result of `indexer models list`: which encoder for whom; built-in, installed and published models."""
    lines = ["which encoder (sound to numbers) for whom:", encoders_text(found["encoders"]), "", "built in:"]
    lines += [f"  {m['name']}  {m['use']}" for m in found["built_in"]]
    lines.append("installed:")
    lines += [
        f"  {m['name']}  ({m['size'] / 1e6:.0f} MB)" + (f"  unusable: {m['problem']}" if m["problem"] else "")
        for m in found["installed"]
    ]
    if not found["installed"]:
        lines.append("  none")
    for (publisher, licence), models in groupby(found["published"], key=lambda m: (m["publisher"], m["licence"])):
        lines.append(f"published by {publisher} ({licence}):")
        lines += [f"  {m['name']}  (about {m['about_mb']} MB): {m['use']}" for m in models]
    lines.append("for searching by words:")
    lines += [
        f"  {m['name']}  (about {m['about_mb']} MB, {m['licence']}): {m['use']}"
        + (", installed" if m["installed"] else "")
        for m in found["texts"]
    ]
    return "\n".join(lines)


_COPY_LINE = "{:4}  {:12}  {:>11}  {:>8}  {:>9}  {:>4}  {}"


def duplicates_text(found: dict[str, Any]) -> str:
    """The result of `indexer duplicates`: a table for each sound, the copy to keep first."""
    lines = []
    for group in found["groups"]:
        kept = group["copies"][0]
        named = artist_and_title(kept["artist"], kept["title"]) or "no title"
        lines += [f"{named} ({duration(kept['duration_s'] or 0)}; {HOW_SAME[group['how']]})"]
        lines += [
            "  "
            + _COPY_LINE.format(
                "keep" if copy["keep"] else "",
                f"{copy['codec'] or copy['container'] or '?'}{'  ?' if copy['lossy_suspect'] else ''}",
                f"{copy['kbit_s'] or 0:,} kbit/s",
                f"{(copy['sample_rate_hz'] or 0) / 1000:g} kHz",
                f"{copy['size'] / 1e6:.1f} MB",
                f"{copy['tags']}/5",
                copy["path"] + (f"  [{copy['dj_data']}]" if copy["dj_data"] else ""),
            )
            for copy in group["copies"]
        ]
        lines += [f"  why: {'; '.join(group['why'])}", *(f"  but: {line}" for line in group["beware"]), ""]
    if not lines:
        return "no sound is in several files"
    summary = (
        f"{count(len(found['groups']), 'sound')} in several files; {count(found['files'], 'file')},"
        f" {found['could_free_bytes'] / 1e9:,.2f} GB, beside those to keep. Nothing was changed."
    )
    if found["not_aligned"]:
        summary += f"\n{found['not_aligned']:,} rest on embedding and length only: listen before you delete."
    if any(copy["lossy_suspect"] for group in found["groups"] for copy in group["copies"]):
        summary += "\n? lossless, but its spectrum ends as an MP3's or AAC's does: it may have been one."
    return "\n".join([*lines, summary])
