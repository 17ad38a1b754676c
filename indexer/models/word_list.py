"""Some 300 words for genres, moods and sounds, and their text vectors: browsing by them needs no text encoder.

The vectors are of sentences like those that M2D-CLAP and LAION-CLAP were trained with ("The sound of House music.").
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from indexer.encoders import tensorfile
from indexer.encoders.checkpoints import Checkpoint
from indexer.errors import ModelError

FILE = "words.safetensors"
KIND = "word vectors"


def _words(text: str) -> list[str]:
    return [" ".join(word.split()) for word in text.split(",")]


GENRES = _words("""
    ambient, dark ambient, space ambient, drone, downtempo, chillout, chillwave, lo-fi hip hop, trip hop, illbient,
    psybient, new age, field recording, house, deep house, tech house, acid house, progressive house, electro house,
    french house, disco house, funky house, garage house, afro house, tribal house, latin house, tropical house,
    future house, bass house, big room house, ghetto house, minimal house, microhouse, lo-fi house, organic house,
    jackin house, chicago house, italo house, hip house, balearic, nu disco, disco, italo disco, space disco, cosmic
    disco, post-disco, boogie, techno, detroit techno, minimal techno, dub techno, acid techno, hard techno,
    industrial techno, melodic techno, peak time techno, hypnotic techno, schranz, ambient techno, bleep techno, raw
    techno, trance, progressive trance, uplifting trance, vocal trance, psytrance, goa trance, hard trance, acid
    trance, tech trance, dream trance, full-on psytrance, dark psytrance, forest psytrance, neotrance, drum and
    bass, liquid drum and bass, neurofunk, jungle, ragga jungle, darkstep, techstep, jump-up, drumfunk, atmospheric
    drum and bass, halftime, breakcore, breakbeat, big beat, nu skool breaks, progressive breaks, florida breaks,
    electro, electroclash, miami bass, ghettotech, footwork, juke, UK garage, 2-step, speed garage, bassline, grime,
    dubstep, brostep, post-dubstep, future garage, UK funky, riddim, dub, dubwise, reggae, dancehall, moombahton,
    trap, future bass, wave, phonk, hyperpop, hardcore, gabber, happy hardcore, hardstyle, rawstyle, jumpstyle,
    frenchcore, speedcore, terrorcore, makina, freeform hardcore, hard dance, hard house, rave, old school rave,
    bouncy techno, eurodance, hands up, eurobeat, hi-NRG, synth-pop, synthwave, darksynth, vaporwave, dreampunk, new
    wave, minimal wave, coldwave, darkwave, EBM, industrial, aggrotech, futurepop, electro-industrial, IDM, glitch,
    glitch hop, wonky, braindance, electronica, folktronica, indietronica, nu jazz, acid jazz, jazztronica, electro
    swing, kosmische Musik, krautrock, Berlin school, musique concrete, noise, power electronics, chiptune, video
    game music, soundtrack, orchestral, cinematic, piano, jazz, blues, funk, soul, R&B, hip hop, rap, pop, rock,
    indie rock, metal, punk, folk, country, classical, opera, choir, gospel, salsa, samba, bossa nova, cumbia,
    kuduro, baile funk, amapiano, gqom, kwaito, afrobeat, highlife, spoken word, podcast
""")
MOODS = _words("""
    dark, bright, melancholic, sad, happy, euphoric, uplifting, dreamy, hypnotic, aggressive, angry, calm, peaceful,
    relaxing, meditative, tense, eerie, spooky, mysterious, romantic, sensual, sexy, nostalgic, epic, triumphant,
    playful, funny, cold, warm, gloomy, lonely, hopeful, ecstatic, trippy, psychedelic, spacey, underwater, urban,
    mechanical, tribal, spiritual, sentimental, energetic, driving, groovy, bouncy, laid-back, slow, fast, minimal,
    dense, repetitive, chaotic, raw, polished, gritty, lush, airy, deep, heavy, soft, loud, quiet, summery,
    nocturnal, festive, danceable, atmospheric
""")
SOUNDS = _words("""
    acid bassline, sub bass, distorted kick drum, four-on-the-floor beat, breakbeats, broken beat, hand drums, hand
    claps, hi-hats, drum machine, dub chords, deep chords, arpeggios, synthesizer pads, analog synthesizer, strings,
    piano chords, electric guitar, acoustic guitar, saxophone, flute, trumpet, bells, vinyl crackle, rain and birds,
    female vocals, male vocals, vocal samples, choir voices, robot voice, no vocals, long build-up, crowd cheering,
    echoes and reverb
""")


def sentences() -> dict[str, list[tuple[str, str]]]:
    """By kind of word: (the word, the sentence whose vector is kept)."""
    return {
        "genres": [(word, f"The sound of {word} music.") for word in GENRES],
        "moods": [(word, f"The sound of {word} music.") for word in MOODS],
        "sounds": [(word, f"The sound of music with {word}.") for word in SOUNDS],
    }


def all_sentences() -> list[str]:
    """Every sentence once."""
    return list(dict.fromkeys(sentence for words in sentences().values() for _, sentence in words))


def kept(info: Checkpoint) -> dict[str, np.ndarray]:
    """The vectors (words,) that are kept of a model, by sentence; empty where none are, or they are of another one."""
    path = info.path.parent / FILE
    try:
        about = tensorfile.read_header(path).about
        texts = about["texts"]
        if about["kind"] != KIND or about["of"] != _key(info) or not all(isinstance(text, str) for text in texts):
            return {}
        vectors = tensorfile.read_arrays(path, {"vectors": (len(texts), info.words_width)})["vectors"]
    except (ModelError, KeyError, TypeError):
        return {}
    return dict(zip(texts, vectors, strict=True))


def keep(info: Checkpoint, encode: Callable[[Sequence[str]], np.ndarray]) -> None:
    """Make the vectors of the list, unless they are kept already. Raises ModelError where they cannot be written."""
    texts = all_sentences()
    if not set(texts) <= kept(info).keys():
        about = {"kind": KIND, "of": _key(info), "texts": texts}
        tensorfile.write(info.path.parent / FILE, {"vectors": encode(texts)}, about)


def forget(models_dir: Path) -> None:
    """Remove the vectors that are kept of any installed model: another text encoder or vocabulary makes others."""
    for path in models_dir.glob(f"*/{FILE}"):
        path.unlink(missing_ok=True)


def _key(info: Checkpoint) -> list[str | None]:
    return [info.words_id, info.text_sha256]
