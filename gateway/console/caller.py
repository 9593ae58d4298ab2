"""Caller: a page asks the gateway what its reader may ask, by the HTTP API and in the same process.

Each call goes through the API's own guard with the cookie of whoever looks: roles, scopes, the audit log,
bounds and wordings are those of ``/v1``, and a session that ends ends the page. No socket is used.

Not here: what a page shows when it was refused (`view`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import httpx
from starlette.types import ASGIApp

from gateway.api.guard import COOKIE, CSRF

TIMEOUT_S: Final = 40.0
"""No answer of the API takes longer: the longest is a wait for a result, 30 s."""


class Refusal(Exception):
    """The API said no. Its words are for the reader: *detail* names the cause, *fix* what to do.

    Args: status: of HTTP.   field: what it is about, ``body.name``; "": the request as a whole.
    cause: the id that ``why`` or the log explains.
    """

    def __init__(self, status: int, detail: str, fix: str = "", field: str = "", cause: str = "") -> None:
        super().__init__(detail)
        self.status, self.detail, self.fix, self.field, self.cause = status, detail, fix, field, cause

    @property
    def sentence(self) -> str:
        return f"{self.detail}: {self.fix}" if self.fix else self.detail


class Caller:
    """Calls of one page. Args: app: the gateway's HTTP application.   address: of the reader."""

    def __init__(self, app: ASGIApp, cookie: str, csrf: str, address: tuple[str, int]) -> None:
        self._csrf = csrf
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=address),
            base_url="https://gateway",
            cookies={COOKIE: cookie},
            timeout=TIMEOUT_S,
        )

    async def get(self, path: str, **query: Any) -> Any:
        """The answer's value. *query*: without what is None or "". Raises: Refusal."""
        return (await self.send("GET", path, query=query)).json()

    async def text(self, path: str, **query: Any) -> str:
        """Raises: Refusal."""
        return (await self.send("GET", path, query=query)).text

    async def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return await self.change("POST", path, body, **options)

    async def put(self, path: str, body: Any = None, **options: Any) -> Any:
        return await self.change("PUT", path, body, **options)

    async def patch(self, path: str, body: Any = None, **options: Any) -> Any:
        return await self.change("PATCH", path, body, **options)

    async def delete(self, path: str, **options: Any) -> Any:
        return await self.change("DELETE", path, None, **options)

    async def change(
        self, method: str, path: str, body: Any, *, headers: Mapping[str, str] | None = None, **query: Any
    ) -> Any:
        """The answer's value; None where it has none. Raises: Refusal.

        Args: headers: If-Match, Idempotency-Key.
        """
        answer = await self.send(method, path, body, headers=headers, query=query)
        return answer.json() if answer.content else None

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        """The answer as it came, for its ETag or other types of body. Raises: Refusal."""
        asked = {name: value for name, value in (query or {}).items() if value is not None and value != ""}
        given = {CSRF: self._csrf, **(headers or {})}
        try:
            answer = await self._client.request(
                method, path, params=asked, headers=given, content=content,
                json=body if content is None and method != "GET" and body is not None else None,
            )  # fmt: skip
        except httpx.HTTPError as error:
            raise Refusal(503, f"the gateway did not answer: {type(error).__name__}", "try again") from None
        if answer.is_success:
            return answer
        raise _refusal(answer)

    async def close(self) -> None:
        await self._client.aclose()


def _refusal(answer: httpx.Response) -> Refusal:
    try:
        told = answer.json()
        return Refusal(
            answer.status_code, str(told["detail"]), told.get("fix", ""), told.get("field", ""),
            told.get("cause", ""),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError):
        return Refusal(answer.status_code, f"the gateway answered {answer.status_code}")
