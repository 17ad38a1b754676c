"""The library opened for writing: the statements with which a scan and the commands read and change it.

One process and one thread writes at a time (the caller holds indexer.library.lock). Never touches a music file, and
knows neither the formats of tags nor encoders: it stores what it is given.
"""

from indexer.library.writing.backlog import Backlog
from indexer.library.writing.files import Files
from indexer.library.writing.journal import Journal
from indexer.library.writing.judgements import Judgements
from indexer.library.writing.recordings import Recordings
from indexer.library.writing.walked import Walked


class Store(Walked, Files, Recordings, Judgements, Backlog, Journal):
    """All statements on one connection. Every method commits by itself unless called inside ``transaction()``."""
