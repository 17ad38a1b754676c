"""The checkpoints that others publish: names, sizes and uses, and the terms of those who publish them."""

import difflib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who publishes checkpoints, where, and under which terms."""

    name: str
    base_url: str
    licence: str  # in a few words, for lists
    recorded: str  # the licence in full, beside a model that was downloaded
    notice: str  # shown before a download


NTT = Publisher(
    "NTT",
    "https://github.com/nttcslab/m2d/releases/download",
    "evaluation licence, non-commercial",
    "NTT software license agreement for evaluation (LICENSE.pdf of github.com/nttcslab/m2d)",
    """\
M2D's checkpoints belong to NTT (Nippon Telegraph and Telephone Corporation) and come under NTT's "Software license
agreement for evaluation", not under this program's licence. In short, and in our words:
  - for evaluation only, and not for any commercial purpose;
  - you may not pass the checkpoint on, nor parts of it, nor grant anyone rights in it;
  - NTT may withdraw the licence at any time.
The agreement itself decides. Read LICENSE.pdf in https://github.com/nttcslab/m2d before you accept.
Your acceptance is recorded beside the model, with its time.""",
)
LAION = Publisher(
    "LAION",
    "https://huggingface.co",
    "Apache-2.0, commercial use allowed",
    "Apache-2.0 (huggingface.co/laion); LAION-CLAP's own program: CC0 1.0",
    """\
LAION-CLAP's checkpoints come from LAION's pages on huggingface.co, under the Apache License 2.0 by what these state;
LAION's own program, github.com/LAION-AI/CLAP, is given to the public domain (CC0 1.0). In short, and in our words: you
may use them for any purpose, also for paid work, and pass them on with the licence.
Your acceptance is recorded beside the model, with its time.""",
)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A published checkpoint."""

    name: str
    tag: str  # NTT's: of the release; LAION's: the repository
    use: str  # in one phrase
    about_mb: int  # rough size of the download; the server states the exact one
    words: bool = False  # whether its sound and text share a space
    publisher: Publisher = NTT

    def url(self, base_url: str) -> str:
        """The address of the zip; of LAION's the folder that the files are in."""
        base = base_url.rstrip("/")
        return f"{base}/{self.tag}/{self.name}.zip" if self.publisher is NTT else f"{base}/{self.tag}/resolve/main"

    def facts(self) -> dict[str, Any]:
        """What `models list` tells."""
        return {
            "name": self.name,
            "tag": self.tag,
            "use": self.use,
            "about_mb": self.about_mb,
            "publisher": self.publisher.name,
            "licence": self.publisher.licence,
        }


KNOWN: tuple[KnownModel, ...] = (
    KnownModel(
        "m2d_vit_base-80x608p16x16-221006-mr7_enconly", "v0.1.0", "general features, for training your own heads", 300
    ),
    KnownModel("m2d_as_vit_base-80x608p16x16-240213", "v0.1.0", "general features, closer to AudioSet", 1300),
    KnownModel("m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025", "v0.5.0", "search by words", 1300, words=True),
    KnownModel("m2d_clap_vit_base-80x608p16x16-240128", "v0.1.0", "search by words, with gte-base", 1300, words=True),
    KnownModel(
        "m2d_as_vit_base-80x1001p16x16-240213_AS-FT_enconly", "v0.3.0", "AudioSet head: genres without training", 300
    ),
    KnownModel("m2d_vit_base-80x1001p16x16-221006-mr7_as_46ab246d", "v0.3.0", "AudioSet head, older training", 300),
    KnownModel("m2d_as_vit_base-80x608p16x16p32k-240413_enconly", "v0.1.0", "general features at 32 kHz", 300),
    # Sizes: the float32 numbers of such a model.
    KnownModel("larger_clap_music", "laion/larger_clap_music", "search by words, of music", 776, True, LAION),
    KnownModel("larger_clap_general", "laion/larger_clap_general", "search by words, of any sound", 776, True, LAION),
    KnownModel("clap-htsat-unfused", "laion/clap-htsat-unfused", "search by words, the smaller", 614, True, LAION),
)
WITH_WORDS = "m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025"  # for those who do not choose
WITH_WORDS_FOR_ALL = "larger_clap_music"  # for those who may not use NTT's


def known(name: str) -> KnownModel | None:
    """The published checkpoint of this name, or of this repository; None for another name."""
    return next((model for model in KNOWN if name in (model.name, model.tag)), None)


def nearest(name: str, have: list[str]) -> str:
    """A remark on which models have a name like this; ``have``: names of those that are installed."""
    names = [*have, *(model.name for model in KNOWN if model.name not in have)]
    near = [other for other in names if name and name.lower() in other.lower()]
    near += difflib.get_close_matches(name, [other for other in names if other not in near], n=3, cutoff=0.4)
    near += [other for other in have if other not in near]
    return f" (nearest: {', '.join(near[:3])})" if near else ""
