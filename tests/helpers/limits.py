"""The limits of a file as a user has them who set none."""

from indexer.config import Settings
from indexer.files.children.limits import Limits

LIMITS = Limits.of(Settings())
