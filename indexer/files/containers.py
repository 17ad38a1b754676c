"""The registry of containers: one entry for each kind of sound file.

An entry holds the name endings of such files, how one is recognised by its content, which of its bytes are audio, and
which tags are read and written. CONTRIBUTING.md explains how to add one. The container of any other file is ``other``:
FFmpeg may decode it, its identity is the hash of the whole file, and its tags are neither read nor written.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from mutagen import dsf, oggflac, oggopus, oggspeex, oggvorbis

from indexer.files.audio.payload.asf import HEADER as ASF_HEADER
from indexer.files.audio.payload.asf import walk_asf
from indexer.files.audio.payload.mp4 import mp4_kind, walk_mp4
from indexer.files.audio.payload.mpeg import mpeg_kind, walk_mpeg
from indexer.files.audio.payload.ogg import ogg_kind, walk_ogg
from indexer.files.audio.payload.simple import (
    aiff_kind,
    walk_aiff,
    walk_ape,
    walk_dsf,
    walk_flac,
    walk_musepack,
    walk_tta,
    walk_wav,
    walk_wavpack,
    wav_kind,
)
from indexer.files.audio.payload.source import ByteSource, Part
from indexer.files.tags.blocks.ape import ApeBlock, WavPackBlock
from indexer.files.tags.blocks.asf import AsfBlock, AsfLibraryBlock
from indexer.files.tags.blocks.blocks import Block
from indexer.files.tags.blocks.id3 import Id3v1Block, load_dsf, load_front, no_frame_follows
from indexer.files.tags.blocks.mp4 import IlstBlock, other_atoms
from indexer.files.tags.blocks.riff import InfoBlock, load_id3_chunk, no_room, other_chunks
from indexer.files.tags.blocks.vorbis import FlacBlock, OggBlock
from indexer.files.tags.chunks import read_aiff, read_wav
from indexer.files.tags.fields import (
    Fields,
    comments,
    id3_in,
    read_ape_file,
    read_asf,
    read_flac,
    read_id3,
    read_mp4,
)
from indexer.files.tags.further import (
    Reader,
    id3_in_front,
    id3v1,
    more_ape,
    more_asf,
    more_chunks,
    more_comments,
    more_id3,
    more_ogg_comments,
    other_mp4_forms,
)
from indexer.files.tags.pictures import (
    Finder,
    in_ape,
    in_asf,
    in_chunks,
    in_comments_of,
    in_flac,
    in_id3,
    in_id3_of,
    in_mp4,
)

Loader = Callable[[BinaryIO], Block]
ANY_BYTES = "application/octet-stream"


class Place(NamedTuple):
    """A tag that can hold a genre."""

    load: Loader
    create: bool = True  # whether a write creates a tag that does not exist yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One kind of sound file, recognised by exactly one of ``magic``, ``sniff`` and ``search``."""

    name: str  # enters every recording's hash and the library, so it never changes
    suffixes: tuple[str, ...]  # name endings in lower case, for walks only: the content decides the container
    magic: tuple[bytes, ...] = ()  # the first bytes after any ID3v2 tag
    # For formats without fixed first bytes: (source, the first 16 bytes after any ID3v2 tag) -> container name or None.
    sniff: Callable[[ByteSource, bytes], str | None] | None = None
    search: Callable[[ByteSource], str | None] | None = None  # searches the whole file; tried last
    walk: Callable[[ByteSource], Iterator[Part]]  # yields the audio bytes
    demuxers: tuple[str, ...]  # FFmpeg's names for the format
    media_type: str = ANY_BYTES  # the Content-Type for browsers
    read_fields: Callable[[BinaryIO], Fields] | None = None  # None: its tags are not read
    further: tuple[Reader, ...] = ()  # the tags beside those of ``places``: read where these are silent, never written
    pictures: Finder | None = None  # None: covers are not looked for
    places: tuple[Place, ...] = ()  # the first carries INDEXER_* (see genre.py); empty: its tags are not written
    other_parts: Callable[[BinaryIO], dict[str, str]] | None = None  # digests of what a write must keep
    problem: Callable[[BinaryIO], str | None] | None = None  # why a file must not be written; tags have their own


_FRONT_ID3 = (Place(load_front), Place(ApeBlock, create=False), Place(Id3v1Block, create=False))

CONTAINERS: dict[str, Container] = {
    container.name: container
    for container in (
        Container(
            name="mp3",
            suffixes=(".mp3", ".mp2", ".mpga"),
            search=mpeg_kind,
            walk=walk_mpeg,
            demuxers=("mp3",),
            media_type="audio/mpeg",
            read_fields=read_id3,
            pictures=in_id3,
            further=(more_id3, more_ape),
            places=_FRONT_ID3,
            problem=no_frame_follows,
        ),
        Container(
            name="aac",
            suffixes=(".aac",),
            search=mpeg_kind,
            walk=walk_mpeg,
            demuxers=("aac",),
            media_type="audio/aac",
            read_fields=read_id3,
            pictures=in_id3,
            further=(more_id3, more_ape),
        ),
        Container(
            name="flac",
            suffixes=(".flac",),
            magic=(b"fLaC",),
            walk=walk_flac,
            demuxers=("flac",),
            media_type="audio/flac",
            read_fields=read_flac,
            pictures=in_flac,
            further=(more_comments, more_id3, id3v1),
            places=(Place(FlacBlock), Place(load_front, create=False)),
        ),
        Container(
            name="vorbis",
            suffixes=(".ogg",),
            sniff=ogg_kind,
            walk=walk_ogg,
            demuxers=("ogg",),
            media_type="audio/ogg",
            read_fields=comments(oggvorbis.OggVorbis, OggBlock),
            pictures=in_comments_of(oggvorbis.OggVorbis),
            further=(more_ogg_comments,),
            places=(Place(OggBlock),),
        ),
        Container(
            name="opus",
            suffixes=(".opus",),
            sniff=ogg_kind,
            walk=walk_ogg,
            demuxers=("ogg",),
            media_type="audio/ogg",
            read_fields=comments(oggopus.OggOpus, OggBlock),
            pictures=in_comments_of(oggopus.OggOpus),
            further=(more_ogg_comments,),
            places=(Place(OggBlock),),
        ),
        Container(
            name="speex",
            suffixes=(".spx",),
            sniff=ogg_kind,
            walk=walk_ogg,
            demuxers=("ogg",),
            read_fields=comments(oggspeex.OggSpeex, OggBlock),
            pictures=in_comments_of(oggspeex.OggSpeex),
            further=(more_ogg_comments,),
            places=(Place(OggBlock),),
        ),
        Container(
            name="oggflac",
            suffixes=(".oga",),
            sniff=ogg_kind,
            walk=walk_ogg,
            demuxers=("ogg",),
            media_type="audio/ogg",
            read_fields=comments(oggflac.OggFLAC, OggBlock),
            pictures=in_comments_of(oggflac.OggFLAC),
            further=(more_ogg_comments,),
            places=(Place(OggBlock),),
        ),
        Container(
            name="mp4",
            suffixes=(".m4a", ".m4b", ".mp4"),
            sniff=mp4_kind,
            walk=walk_mp4,
            demuxers=("mov", "mp4", "m4a"),
            media_type="audio/mp4",
            read_fields=read_mp4,
            pictures=in_mp4,
            further=(other_mp4_forms,),
            places=(Place(IlstBlock),),
            other_parts=other_atoms,
        ),
        Container(
            name="wav",
            suffixes=(".wav", ".wave", ".bwf", ".rf64", ".bw64"),
            sniff=wav_kind,
            walk=walk_wav,
            demuxers=("wav",),
            media_type="audio/wav",
            read_fields=read_wav,
            pictures=in_chunks,
            further=(more_chunks,),
            places=(Place(load_id3_chunk), Place(InfoBlock)),
            other_parts=other_chunks,
            problem=no_room,
        ),
        Container(
            name="aiff",
            suffixes=(".aif", ".aiff", ".aifc", ".afc"),
            sniff=aiff_kind,
            walk=walk_aiff,
            demuxers=("aiff",),
            media_type="audio/aiff",
            read_fields=read_aiff,
            pictures=in_chunks,
            further=(more_chunks,),
            places=(Place(load_id3_chunk),),
            other_parts=other_chunks,
            problem=no_room,
        ),
        Container(
            name="asf",
            suffixes=(".wma", ".asf"),
            magic=(ASF_HEADER,),
            walk=walk_asf,
            demuxers=("asf",),
            media_type="audio/x-ms-wma",
            read_fields=read_asf,
            pictures=in_asf,
            further=(more_asf,),
            places=(Place(AsfBlock), Place(AsfLibraryBlock, create=False)),
        ),
        Container(
            name="wavpack",
            suffixes=(".wv",),
            magic=(b"wvpk",),
            walk=walk_wavpack,
            demuxers=("wv",),
            media_type="audio/x-wavpack",
            read_fields=read_ape_file,
            pictures=in_ape,
            further=(id3_in_front, more_id3, more_ape),
            places=(Place(WavPackBlock), Place(Id3v1Block, create=False)),
        ),
        Container(
            name="musepack",
            suffixes=(".mpc", ".mp+"),
            magic=(b"MPCK", b"MP+"),
            walk=walk_musepack,
            demuxers=("mpc", "mpc8"),
            read_fields=read_ape_file,
            pictures=in_ape,
            further=(id3_in_front, more_id3, more_ape),
            places=(Place(ApeBlock), Place(Id3v1Block, create=False)),
        ),
        Container(
            name="ape",
            suffixes=(".ape",),
            magic=(b"MAC ",),
            walk=walk_ape,
            demuxers=("ape",),
            read_fields=read_ape_file,
            pictures=in_ape,
            further=(id3_in_front, more_id3, more_ape),
            places=(Place(ApeBlock), Place(Id3v1Block, create=False)),
        ),
        Container(
            name="tta",
            suffixes=(".tta",),
            magic=(b"TTA1",),
            walk=walk_tta,
            demuxers=("tta",),
            read_fields=read_id3,
            pictures=in_id3,
            further=(more_id3, more_ape),
            places=_FRONT_ID3,
        ),
        Container(
            name="dsf",
            suffixes=(".dsf",),
            magic=(b"DSD ",),
            walk=walk_dsf,
            demuxers=("dsf",),
            read_fields=id3_in(dsf.DSF),
            pictures=in_id3_of(dsf.DSF),
            places=(Place(load_dsf),),
        ),
    )
}

# Endings of formats that have no entry but that FFmpeg may decode.
_OTHER_SUFFIXES = (".dff", ".mka", ".webm", ".ac3", ".eac3", ".dts", ".au", ".snd", ".caf", ".w64", ".tak")

AUDIO_SUFFIXES = frozenset(_OTHER_SUFFIXES).union(*(container.suffixes for container in CONTAINERS.values()))
MAGIC = {magic: container.name for container in CONTAINERS.values() for magic in container.magic}
SNIFFS = tuple(dict.fromkeys(container.sniff for container in CONTAINERS.values() if container.sniff))
SEARCHES = tuple(dict.fromkeys(container.search for container in CONTAINERS.values() if container.search))


def media_type(container: str | None) -> str:
    """The media type (Content-Type) of a file of this container."""
    return CONTAINERS[container].media_type if container in CONTAINERS else ANY_BYTES
