"""Which encoder for whom: the facts that `models list`, `init` and the README tell of each kind of encoder."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from indexer.encoders.load import DEFAULT
from indexer.models.catalogue import installed
from indexer.models.published import KNOWN, known


@dataclass(frozen=True, slots=True)
class Kind:
    """Encoders that have these facts in common."""

    name: str  # a built-in encoder's, or the family's
    licence: str
    paid_work: bool  # whether somebody who is paid for playing music may use it
    times_real_time: int  # from files to embeddings; docs/performance.md says on which machine and how
    without_labels: str  # what it knows before anybody has said a genre
    models: tuple[str, ...]  # that can be chosen

    @property
    def download_mb(self) -> int | None:
        """The smallest download, about; None: it comes with the program."""
        return min((model.about_mb for model in KNOWN if model.name in self.models), default=None)

    @property
    def recommended(self) -> bool:
        """Whether it is for those who do not want to choose: the default is."""
        return self.name == DEFAULT

    def facts(self) -> dict[str, Any]:
        """All of it under the names of `models list --json`."""
        return {**asdict(self), "download_mb": self.download_mb, "recommended": self.recommended}


KINDS = (
    Kind("musicnn", "ISC", True, 116, "100 tags, what is alike", ("musicnn",)),
    Kind("rhythm", "no weights", True, 565, "which beats are alike", ("rhythm",)),
    Kind(
        "M2D with AudioSet",
        "NTT's",
        False,
        118,
        "a first guess of genres",
        ("m2d_as_vit_base-80x1001p16x16-240213_AS-FT_enconly", "m2d_vit_base-80x1001p16x16-221006-mr7_as_46ab246d"),
    ),
    Kind(
        "M2D",
        "NTT's",
        False,
        118,
        "what is alike",
        (
            "m2d_vit_base-80x608p16x16-221006-mr7_enconly",
            "m2d_as_vit_base-80x608p16x16p32k-240413_enconly",
            "m2d_as_vit_base-80x608p16x16-240213",
        ),
    ),
    Kind(
        "M2D with words",
        "NTT's",
        False,
        69,
        "search by words",
        ("m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025", "m2d_clap_vit_base-80x608p16x16-240128"),
    ),
    Kind(
        "LAION-CLAP",
        "Apache-2.0",
        True,
        45,
        "search by words",
        ("larger_clap_music", "larger_clap_general", "clap-htsat-unfused"),
    ),
)


def model_of(answer: str) -> str:
    """The model that an answer names: the first of a kind, or the one of that name or path itself."""
    return next((kind.models[0] for kind in KINDS if kind.name.casefold() == answer.strip().casefold()), answer.strip())


def needs_download(name: str, models_dir: Path) -> bool:
    """Whether somebody publishes a model of this name which is not installed."""
    return known(name) is not None and all(model.name != name or model.problem for model in installed(models_dir))
