"""Makes CSV safe for spreadsheets: puts an apostrophe before each cell that a spreadsheet would run as a formula.

OWASP's page on CSV injection advises this. Numbers stay numbers. Works on a stream in pieces of any size.
"""

import csv
import io

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def harmless(cell: str) -> str:
    """The cell; with an apostrophe before it where a spreadsheet would take it for a formula."""
    if not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


class HarmlessCsv:
    """Takes pieces of a UTF-8 CSV and returns them with harmless cells."""

    def __init__(self) -> None:
        self._rest = b""  # of a row that has not ended yet

    def push(self, piece: bytes, *, last: bool = False) -> bytes:
        """Take a piece and return the rows that are complete; with ``last``, all that is left."""
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
