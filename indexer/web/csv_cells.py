"""Makes CSV safe for spreadsheets: puts an apostrophe before each cell that a spreadsheet would run as a formula.

OWASP's page on CSV injection advises this. Numbers stay numbers. Works on a stream in pieces of any size.
"""

import csv
import io

csv.field_size_limit(1 << 30)  # Python's own is 128 kB; what a cell may hold is limited where it is read
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
        self._rest: list[bytes] = []  # of a row that has not ended yet
        self._is_quoted = False  # whether the rest ends inside quotes

    def push(self, piece: bytes, *, last: bool = False) -> bytes:
        """Take a piece and return the rows that are complete; with ``last``, all that is left."""
        end = len(piece) if last else self._end_of_rows(piece)
        if not end and not last:
            self._rest.append(piece)
            return b""
        text = b"".join([*self._rest, piece[:end]]).decode("utf-8", "replace")
        self._rest = [piece[end:]]
        out = io.StringIO()
        csv.writer(out).writerows([harmless(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline="")))
        return out.getvalue().encode()

    def _end_of_rows(self, piece: bytes) -> int:
        """Where the last whole row of a piece ends: a line break outside quotes. Each byte is looked at once."""
        end = at = 0
        for part in piece.split(b'"'):
            if not self._is_quoted and b"\n" in part:
                end = at + part.rindex(b"\n") + 1
            at += len(part) + 1
            self._is_quoted = not self._is_quoted
        self._is_quoted = not self._is_quoted  # behind the last part no quotation mark stands
        return end
