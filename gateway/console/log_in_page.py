"""The page that asks for name and password: one file, without anything from elsewhere.

After it the reader is where he wanted to go: ``?next=/console/…`` (only there, as a link from elsewhere
may hold anything). Who has a session already is led on at once.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Response

from gateway.api.answers import PROBLEMS
from gateway.api.guard import Guarded, for_anybody
from gateway.api.setup_page import STYLE, policy

SCRIPT: Final = """
"use strict";
const form = document.querySelector("form"), said = document.querySelector("output");
const wanted = new URLSearchParams(location.search).get("next") || "";
const ours = /^\\/console(\\/[^\\\\]*)?$/.test(wanted) && !wanted.startsWith("/console/log-in");
const next = ours ? wanted : "/console/";
fetch("/v1/me").then((answer) => { if (answer.ok) location.replace(next); }, () => {});
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  said.textContent = "…";
  let answer, told;
  try {
    answer = await fetch("/v1/log-in", {
      method: "POST",
      headers: {"content-type": "application/json"},
      body: JSON.stringify({name: form.elements.name.value, password: form.elements.password.value}),
    });
    told = await answer.json();
  } catch (error) { said.textContent = "The gateway does not answer: is it running?"; return; }
  if (answer.ok) { location.replace(next); return; }
  said.textContent = told.detail + (told.fix ? ": " + told.fix : "");
  form.elements.password.select();
});
"""
PAGE: Final = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Log in · edgeweave</title><style>{STYLE}</style></head>
<body><main><h1>edgeweave</h1>
<form>
<label>Name
 <input name="name" required maxlength="32" autocomplete="username" autocapitalize="none" autofocus></label>
<label>Password <input name="password" type="password" required autocomplete="current-password"></label>
<button>Log in</button>
</form>
<output role="status"></output></main>
<script>{SCRIPT}</script></body></html>
"""
POLICY: Final = policy(SCRIPT)

router = APIRouter(route_class=Guarded, responses=PROBLEMS)


@router.get("/console/log-in", include_in_schema=False)
@for_anybody()
async def log_in() -> Response:
    return Response(PAGE, media_type="text/html", headers={"content-security-policy": POLICY})
