"""Forms: what several pages ask and show besides labelled inputs (`parts.Entry`).

A file that the reader chooses, a tick, a secret that is shown this once, code with what changed in it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from nicegui import ui

from gateway.console.differences import Line
from gateway.console.parts import El, Labelled, el

PIECE: Final = 300_000
"""Bytes of a file in one message: a socket takes a million characters, base64 makes them a third more."""
_READ: Final = """async (event) => {
  const file = event.target.files[0];
  if (!file) return;
  const tell = (at, text) => emit({name: file.name, size: file.size, at, text});
  if (file.size > %d || !file.size) { tell(0, ""); return; }
  const bytes = new Uint8Array(await file.arrayBuffer());
  for (let at = 0; at < bytes.length; at += %d) {
    let text = "";
    for (const each of bytes.subarray(at, at + %d)) text += String.fromCharCode(each);
    tell(at, btoa(text));
  }
  event.target.value = "";
}"""


class FileEntry(Labelled):
    """A file of the reader's, labelled, with its own line for an error. It is a `view.Field`."""

    def __init__(
        self,
        label: str,
        chosen: Callable[[str, bytes], Awaitable[None]],
        *,
        bytes_max: int,
        accept: str = "",
        hint: str = "",
    ) -> None:
        """Args: chosen: is given each file, its name and content."""
        self._chosen = chosen
        self._bytes_max = bytes_max
        self._hint = hint
        self._name, self._content = "", bytearray()
        with el("div", cls="entry") as self.box:
            name = f"e{self.box.id}"
            el("label", label, "entry-label", for_=name)
            self.input = el(
                "input", cls="input file", id=name, type="file", accept=accept or None,
                aria_describedby=f"{name}-told",
            )  # fmt: skip
            self._told = el("p", hint, "entry-told", id=f"{name}-told", aria_live="polite")
        self.input.on("change", self._piece, js_handler=_READ % (bytes_max, PIECE, PIECE))

    async def _piece(self, event: Any) -> None:
        told = event.args
        name, size, at = str(told["name"])[:255], int(told["size"]), int(told["at"])
        if not 0 < size <= self._bytes_max:
            self.error = f"{name} is empty" if not size else f"{name} has {size} bytes, more than is taken"
            return
        if at == 0:
            self._name, self._content = name, bytearray()
        try:
            piece = base64.b64decode(told["text"], validate=True)
        except (binascii.Error, ValueError):
            piece = b""
        if name != self._name or at != len(self._content) or not 0 < len(piece) <= PIECE:
            self._name, self._content = "", bytearray()
            self.error = f"{name} did not arrive whole: choose it again"
            return
        self._content += piece
        if len(self._content) >= size:
            content, self._content = bytes(self._content[:size]), bytearray()
            self.error = None
            await self._chosen(name, content)


class Tick:
    """A labelled box to tick."""

    def __init__(self, label: str, *, value: bool = False, disabled: str = "") -> None:
        """Args: disabled: why it cannot be ticked."""
        self.value = value
        with el("label", cls="tick", title=disabled or None):
            self.input = el("input", type="checkbox", checked=value or None, disabled=bool(disabled) or None)
            el("span", label)
        self.input.on("change", self._changed, js_handler="(event) => emit(event.target.checked)")

    def _changed(self, event: Any) -> None:
        self.value = event.args is True


class Choice:
    """One of a few, side by side. Args: options: label by value."""

    def __init__(
        self, label: str, options: dict[str, str], value: str, on_change: Callable[[str], None] | None = None
    ) -> None:
        self.value = value
        self._on_change = on_change
        with el("fieldset", cls="choice"):
            el("legend", label, "entry-label")
            with el("div", cls="choice-row") as row:
                for each, text in options.items():
                    with el("label", cls="choice-one"):
                        one = el(
                            "input", type="radio", name=f"c{row.id}", value=each,
                            checked=True if each == value else None,
                        )  # fmt: skip
                        one.on("change", self._changed, js_handler="(event) => emit(event.target.value)")
                        el("span", text)

    def _changed(self, event: Any) -> None:
        self.value = str(event.args)
        if self._on_change is not None:
            self._on_change(self.value)


def secret(label: str, text: str, *, cls: str = "") -> El:
    """A text to be taken along, with a button that copies it."""
    with el("div", cls=f"secret {cls}".strip()) as made:
        el("span", label, "entry-label")
        with el("div", cls="secret-row"):
            shown = el("code", text, "secret-text", tabindex="0", aria_label=label)
            shown.props["onfocus"] = "getSelection().selectAllChildren(this)"
            copy = el("button", "Copy", "btn btn--small", type="button", aria_label=f"Copy {label.lower()}")
            copy.props["onclick"] = "ew.copy(this.previousElementSibling.textContent, this)"
    return made


def qr(text: str, label: str) -> None:
    """*text* as a code for a camera, dark on white in any theme."""
    import segno  # only a page that shows a code needs it

    code = segno.make(text, error="m", micro=False)
    drawn = code.svg_inline(scale=4, border=3, dark="#000", light="#fff", omitsize=True)
    with el("div", cls="qr", role="img", aria_label=label):
        ui.html(drawn, sanitize=False)  # of our own making: paths and numbers only


def code(text: str, label: str) -> El:
    """Source text as it is."""
    return el("pre", text, "code", tabindex="0", role="region", aria_label=label)


def changes(found: Iterable[Line], label: str) -> None:
    """Lines that come and go, told by a sign and not by colour alone."""
    with el("pre", cls="code diff", tabindex="0", role="region", aria_label=label):
        for line in found:
            kind = {"+": "plus", "-": "minus", "…": "gap"}.get(line.sign, "same")
            el("span", f"{line.sign} {line.text}", f"diff-{kind}")
