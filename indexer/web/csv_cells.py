"""CSV that a spreadsheet shows and never runs: cells that begin like a formula get an apostrophe before them.

As OWASP's page on CSV injection advises. Numbers stay numbers. Works on a stream, whatever its pieces.
"""

import csv
import io

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def harmless(cell: str) -> str:
    """The cell as text, where a spreadsheet would take it for a formula."""
    if not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


class HarmlessCsv:
    """Takes pieces of a UTF-8 CSV and gives them back with harmless cells."""

    def __init__(self) -> None:
        self._rest = b""  # of a row that has not ended yet

    def push(self, piece: bytes, *, last: bool = False) -> bytes:
        """What can be told of the rows so far; with ``last`` everything."""
        text = self._rest + piece
        end = len(text) if last else _end_of_rows(text)
        self._rest = text[end:]
        out = io.StringIO()
        csv.writer(out).writerows(
            [harmless(cell) for cell in row]
            for row in csv.reader(io.StringIO(text[:end].decode("utf-8", "replace"), newline=""))
        )
        return out.getvalue().encode()


def _end_of_rows(text: bytes) -> int:
    """Where the last whole row ends: a line break outside quotes."""
    end = text.rfind(b"\n") + 1
    while end and text.count(b'"', 0, end) % 2:
        end = text.rfind(b"\n", 0, end - 1) + 1
    return end
