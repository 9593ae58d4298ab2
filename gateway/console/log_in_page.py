"""The page that asks for name and password: one file, without anything from elsewhere.

After it the reader is where he wanted to go: ``?next=/console/…`` (only there, as a link from elsewhere
may hold anything). A log-in link holds its secret behind ``#``, which a browser sends to no server by itself.

A browser that comes from another site does not send the session's cookie along: such a request is answered
with a page that asks again, which counts as our own. Who has a session then is led on at once, unless he came
with a log-in link: somebody else may have sent it, to have him work under another name, so he is asked.
"""

from __future__ import annotations

import html
from typing import Final

from fastapi import APIRouter, Response

from gateway.api.answers import PROBLEMS
from gateway.api.guard import COOKIE, Asking, Guarded, for_anybody
from gateway.api.setup_page import STYLE, policy

SCRIPT: Final = """
"use strict";
const form = document.querySelector("form"), said = document.querySelector("output");
const wanted = new URLSearchParams(location.search).get("next") || "";
const ours = /^\\/console(\\/[^\\\\]*)?$/.test(wanted) && !wanted.startsWith("/console/log-in");
const next = ours ? wanted : "/console/";
async function logIn(path, body) {
  said.textContent = "…";
  let answer, told;
  try {
    const headers = {"content-type": "application/json"};
    answer = await fetch(path, {method: "POST", headers, body: JSON.stringify(body)});
    told = await answer.json();
  } catch (error) { said.textContent = "The gateway does not answer: is it running?"; return; }
  if (answer.ok) { location.replace(next); return; }
  said.textContent = told.detail + (told.fix ? ": " + told.fix : "");
  form.elements.password.select();
}
form.addEventListener("submit", (event) => {
  event.preventDefault();
  logIn("/v1/log-in", {name: form.elements.name.value, password: form.elements.password.value});
});
const secret = location.hash.slice(1), held = document.querySelector("section");
if (secret) history.replaceState(null, "", location.pathname + location.search);
const byLink = () => logIn("/v1/log-in/link", {secret});
const [stay, change] = held.querySelectorAll("button");
stay.addEventListener("click", () => location.replace(next));
change.addEventListener("click", byLink);
if (held.hidden) { if (secret) byLink(); }
else if (!secret) location.replace(next);
else { form.hidden = true; stay.focus(); }
"""
_HEAD: Final = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Log in · edgeweave</title><style>{STYLE}</style></head>
<body><main><h1>edgeweave</h1>
"""
_TAIL: Final = f"""<form>
<label>Name
 <input name="name" required maxlength="32" autocomplete="username" autocapitalize="none" autofocus></label>
<label>Password <input name="password" type="password" required autocomplete="current-password"></label>
<button>Log in</button>
</form>
<output role="status"></output></main>
<script>{SCRIPT}</script></body></html>
"""


def page(reader: str = "") -> str:
    """Args: reader: whose session this browser holds, if any."""
    name = html.escape(reader)
    return f"""{_HEAD}<section{"" if reader else " hidden"}>
<p>This browser is logged in as <strong>{name}</strong>.
The link logs you in anew, perhaps under another name.</p>
<button type="button">Go on as {name}</button> <button type="button">Use the link</button>
</section>
{_TAIL}"""


POLICY: Final = policy(SCRIPT)

router = APIRouter(route_class=Guarded, responses=PROBLEMS)


AGAIN: Final = (
    '<!doctype html><html lang="en"><title>edgeweave</title><meta http-equiv="refresh" content="0">'
)


@router.get("/console/log-in", include_in_schema=False)
@for_anybody()
async def log_in(ask: Asking) -> Response:
    """The page that asks for name and password; after it the reader is where he wanted to go."""
    ask.services.expected()
    text = AGAIN
    if ask.request.headers.get("sec-fetch-site") != "cross-site":
        reader = ask.services.access.by_cookie(ask.request.cookies.get(COOKIE, ""))
        text = page(reader.name if reader is not None else "")
    return Response(text, media_type="text/html", headers={"content-security-policy": POLICY})
