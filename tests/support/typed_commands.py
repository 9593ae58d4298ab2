"""A command line that is run in this process, with what is typed into it."""

from __future__ import annotations

import io
import sys


def typed(program, capsys, monkeypatch, home, words, *, stdin=b"", terminal=False, secret):
    """(exit code, stdout, stderr) of these words; *secret* must be in neither."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    if terminal:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    code = program.enter(["--home", str(home.path), *(str(each) for each in words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and secret not in out + err
    return code, out, err
