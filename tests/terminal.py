"""A terminal for tests: as much of a VT100 as the live display and the jobs of the tests use."""

from __future__ import annotations

import re

TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b([78D])|([\r\n])|([^\x1b\r\n])")


class Terminal:
    """What is on the screen, and what has left it at the top; ``feed`` it what programs write."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.columns, self.lines = columns, lines
        self.cells = [[" "] * columns for _ in range(lines)]
        self.history: list[str] = []
        self.row = self.column = 0
        self.saved = (0, 0)

    @property
    def text(self) -> list[str]:
        """Every line there has been, but for empty ones."""
        return [line for line in [*self.history, *("".join(row).rstrip() for row in self.cells)] if line]

    def feed(self, text: str) -> None:
        """Take what a program writes; a line feed also returns the carriage, as terminals are set up to."""
        for number, action, escape, control, char in TOKEN.findall(text):
            if char:
                self._print(char)
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self.column = 0
                self._down()
            elif escape:
                self._escape(escape)
            else:
                self._act(action, int(number) if number.isdigit() else 0)

    def _print(self, char: str) -> None:
        if self.column == self.columns:
            self.column = 0
            self._down()
        self.cells[self.row][self.column] = char
        self.column += 1

    def _down(self) -> None:
        if self.row + 1 < self.lines:
            self.row += 1
            return
        self.history.append("".join(self.cells.pop(0)).rstrip())
        self.cells.append([" "] * self.columns)

    def _escape(self, escape: str) -> None:
        if escape == "D":
            self._down()
        elif escape == "7":
            self.saved = (self.row, self.column)
        else:
            self.row, self.column = self.saved

    def _act(self, action: str, number: int) -> None:
        if action == "A":
            self.row = max(0, self.row - max(1, number))
        elif action in "JK":
            self.cells[self.row][self.column :] = [" "] * (self.columns - self.column)
            if action == "J":
                self.cells[self.row + 1 :] = [[" "] * self.columns for _ in range(self.lines - self.row - 1)]
        else:
            assert action == "m", f"the terminal of the tests knows no {action!r}"
