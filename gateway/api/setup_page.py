"""The page behind the set-up link: makes the first administrator.

The link's secret stands behind ``#``: a browser never sends it to a server by itself, so it is in no log.
The page is one file without anything from elsewhere; its policy allows only its own script, by hash, and
only requests to here.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from fastapi import APIRouter, Response

from gateway.api.answers import PROBLEMS
from gateway.api.guard import Guarded, for_anybody

_SCRIPT: Final = """
"use strict";
const form = document.querySelector("form");
const said = document.querySelector("output");
const secret = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
if (!secret) said.textContent = "Open the whole link that the gateway printed: the part behind # is missing.";
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = form.elements.name.value, password = form.elements.password.value;
  if (password !== form.elements.again.value) { said.textContent = "The passwords differ."; return; }
  said.textContent = "…";
  let answer, told;
  try {
    answer = await fetch("/v1/set-up", {
      method: "POST",
      headers: {"content-type": "application/json"},
      body: JSON.stringify({secret, name, password}),
    });
    told = await answer.json();
  } catch (error) { said.textContent = "The gateway does not answer: is it running?"; return; }
  if (!answer.ok) { said.textContent = told.detail + (told.fix ? ": " + told.fix : ""); return; }
  form.hidden = true;
  said.innerHTML = 'The link is used up. <a href="/console/">Log in</a> as the administrator.';
});
"""
STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 26rem; margin: 4rem auto; padding: 0 1rem;
  color: CanvasText; background: Canvas; color-scheme: light dark; }
label { display: block; margin: 1rem 0 0; } input { font: inherit; width: 100%; padding: .4rem; box-sizing:
border-box; } button { font: inherit; margin: 1.5rem 0; padding: .4rem 1.2rem; } output { display: block;
min-height: 3rem; }
"""
_PAGE: Final = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>edgeweave: set-up</title><style>{STYLE}</style></head>
<body><h1>The first administrator</h1>
<form>
<label>Name <input name="name" required maxlength="32" autocomplete="username" autocapitalize="none"
 pattern="[a-z0-9._\\-]+" title="a-z 0-9 . _ -"></label>
<label>Password, at least 12 characters
 <input name="password" type="password" required minlength="12" autocomplete="new-password"></label>
<label>Once more <input name="again" type="password" required autocomplete="new-password"></label>
<button>Set up</button>
</form>
<output role="status"></output>
<script>{_SCRIPT}</script></body></html>
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def policy(script: str) -> str:
    """What a page of `STYLE` and *script* may do: this, and requests to here."""
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(STYLE)}; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


POLICY: Final = policy(_SCRIPT)

router = APIRouter(route_class=Guarded, responses=PROBLEMS)


@router.get("/setup", include_in_schema=False)
@for_anybody()
async def setup() -> Response:
    """The page; it says the same whether or not there is a user: the link's secret decides."""
    return Response(_PAGE, media_type="text/html", headers={"content-security-policy": POLICY})
