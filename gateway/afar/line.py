"""Line: a ``Mesh`` whose requests go to a gateway afar, over its HTTP API (httpx behind ``calls``).

    async with AfarMesh(home, reach) as mesh:
        rows = await mesh.call("nodes")

The certificate is verified before the token, or anything else, is sent; redirects are not followed and no
proxy is used. Cancelling an awaited request ends it here; what the gateway has begun goes on there.

Work bears a key of its own (Idempotency-Key) and is sent again when its answer does not come: the gateway
takes it once. Nothing else is sent twice: a change that may have been made is for people to look at.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import Iterator
from typing import Any, Final

import httpx

from edge_node.client import Mesh, MeshUnavailable, Refused
from edge_node.control import protocol
from edge_node.home import Home
from gateway.afar.calls import Answered, Asked, again_in_s, exchange
from gateway.afar.trust import Anchor, Reach, anchor_at, anchor_of, not_believed
from security.certificates import read_pem, verify_chain
from security.errors import BadInput, ProtocolViolation
from security.identity import GATEWAY, dns_name, mesh_id_of
from security.tls import join_probe_context

CONNECT_S: Final = 10.0
ANSWER_S: Final = 60.0
"""Of one request, beside what the gateway was asked to wait: a revocation waits for disk and broker."""
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Four times what the control socket's frames hold: JSON is longer than MessagePack."""
IDLE_S: Final = 3.0
"""A connection is kept so long for the next request: the gateway closes it after 5 s."""
CHAIN_BYTES_MAX: Final = 16 * 1024
LOOK: Final = "it may be done or not: look before you ask again"


class Unsure(MeshUnavailable):
    """It was sent, wholly or in part, and no answer came: it may have been taken."""


class AfarMesh(Mesh):
    """A gateway on another machine. Work, results and administrative methods; ``state`` goes by ``call``."""

    def __init__(self, home: Home, reach: Reach) -> None:
        super().__init__(home, self._reached)
        self._reach = reach
        self._client: httpx.AsyncClient | None = None

    async def _reached(self) -> HttpsLine:
        """Nothing is sent yet, but the root is fetched where only its pin is known.

        Raises: BadInput, MeshUnavailable, Refused.
        """
        if self._client is None:
            anchor = await _pinned(self._reach) if self._reach.pin else anchor_of(self._reach.ca)
            self._client = _client(anchor.context)
            self._anchor = anchor
        return HttpsLine(self._client, self._reach, self._anchor)

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class HttpsLine:
    """``edge_node.client.Line`` over HTTPS; many requests at once, each on a connection of its own."""

    def __init__(self, client: httpx.AsyncClient, reach: Reach, anchor: Anchor) -> None:
        self.loop = asyncio.get_running_loop()
        self.lost = False
        self.ready = True
        self._client = client
        self._reach = reach
        self._anchor = anchor
        self._last = 0
        self._asking: set[asyncio.Task[protocol.Response]] = set()

    def number(self) -> int:
        self._last += 1
        return self._last

    def ask(self, request: protocol.Request) -> asyncio.Future[protocol.Response]:
        """Its task ends with the line (``close``). Raises (awaited): MeshUnavailable, Refused, BadInput."""
        asking = self.loop.create_task(self._asked(request), name=f"afar-{request.id}")
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        return asking

    async def writable(self) -> None:
        if self.lost:
            raise MeshUnavailable("the line to the gateway is closed")

    def close(self) -> None:
        self.lost, self.ready = True, False
        for asking in self._asking:
            asking.cancel()

    async def _asked(self, request: protocol.Request) -> protocol.Response:
        conversation = exchange(request, secrets.token_urlsafe(16))
        try:
            asked = next(conversation)
            while True:
                asked = conversation.send(await self._sent(asked))
        except StopIteration as ended:
            response: protocol.Response = ended.value
            return response

    async def _sent(self, asked: Asked) -> Answered:
        headers = {"authorization": f"Bearer {self._reach.token}", **asked.headers}
        content = asked.content
        if content is not None:
            headers["content-type"] = "text/x-python"
        elif asked.body is not None:
            content, headers["content-type"] = _json(asked.body), "application/json"
        began_s, tries = self.loop.time(), 0
        doubt: Unsure | None = None
        while True:
            answered: Answered | None = None
            try:
                answered = await _answered(
                    self._client, asked.method, self._reach.url, asked.path, self._anchor,
                    params=dict(asked.query), headers=headers, content=content, timeout=_within(asked.wait_s),
                )  # fmt: skip
            except Unsure as error:
                doubt = doubt or error
            except MeshUnavailable:
                if doubt is None:
                    raise  # it has not been sent
            tries += 1
            pause_s = again_in_s(asked, answered, tries=tries, since_s=self.loop.time() - began_s)
            if pause_s is not None:
                await asyncio.sleep(pause_s)
            elif answered is not None:
                return answered
            else:
                assert doubt is not None, "else it was raised"
                raise doubt


def _client(context: ssl.SSLContext) -> httpx.AsyncClient:
    limits = httpx.Limits(keepalive_expiry=IDLE_S)
    return httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False, limits=limits)


def _within(wait_s: float) -> httpx.Timeout:
    return httpx.Timeout(ANSWER_S + wait_s, connect=CONNECT_S)


async def _answered(
    client: httpx.AsyncClient, method: str, url: str, path: str, anchor: Anchor, **given: Any
) -> Answered:
    """Raises: MeshUnavailable: nobody answers. Unsure: nor whether it was taken. Refused: its certificate
    does not hold.
    """
    extensions = {"sni_hostname": anchor.name} if anchor.name else {}
    try:
        async with client.stream(method, url + path, extensions=extensions, **given) as response:
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > ANSWER_BYTES_MAX:
                    raise MeshUnavailable(
                        f"the gateway at {url} answered with more than {ANSWER_BYTES_MAX >> 20} MiB",
                        fix="ask for less at once",
                    )
            return Answered(response.status_code, bytes(body), response.headers.get("retry-after", ""))
    except httpx.TimeoutException as error:
        is_sent = not isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout)
        cause, fix = f"the gateway at {url} did not answer in time", "is it up, and is the port open?"
        raise (Unsure(cause, fix=LOOK) if is_sent else MeshUnavailable(cause, fix=fix)) from None
    except httpx.TransportError as error:
        raise _told(error, url, anchor) from None
    except (httpx.InvalidURL, UnicodeError):
        raise BadInput(f"{url!r:.100} cannot be asked", fix="write https://HOST:PORT") from None


def _told(error: BaseException, url: str, anchor: Anchor) -> MeshUnavailable | Refused:
    """In a person's words."""
    for each in _causes(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return not_believed(url, anchor, each.verify_message or "")
    for each in _causes(error):
        if isinstance(each, ssl.SSLError):
            return MeshUnavailable(
                f"what answers at {url} speaks no TLS 1.3", fix="check host and port, a gateway's is 8443"
            )
    if not isinstance(error, httpx.ConnectError):
        return Unsure(f"the line to the gateway at {url} broke before it answered", fix=LOOK)
    why = next((each.strerror for each in _causes(error) if isinstance(each, OSError) and each.strerror), "")
    return MeshUnavailable(
        f"no gateway answers at {url}{f' ({why})' if why else ''}",
        fix="is it up, is the port open, and does the host's name lead there?",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _json(body: object) -> bytes:
    """Raises: BadInput: JSON cannot say it."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise BadInput(
            "what is to be sent holds NaN, an infinity, bytes or a date, which JSON lacks",
            fix="write it as null or text; or run the command on the gateway",
        ) from None


async def _pinned(reach: Reach) -> Anchor:
    """The root whose pin is known, from the gateway itself: nothing secret is sent.

    Raises: MeshUnavailable: nobody answers. Refused: another mesh's root.
    """
    pin = bytes.fromhex(reach.pin)
    anchor = Anchor(join_probe_context(), dns_name(mesh_id_of(pin), GATEWAY), "the pin")
    async with _client(anchor.context) as client:
        answered = await _answered(client, "GET", reach.url, "/join/chain", anchor, timeout=_within(0))
    try:
        if answered.status != 200 or len(answered.body) > CHAIN_BYTES_MAX:
            raise ProtocolViolation("it shows no CA chain")
        _, root = verify_chain(read_pem(answered.body), root_spki_sha256=pin)
    except ProtocolViolation as violation:
        raise not_believed(reach.url, anchor, violation.cause) from None
    return anchor_at(root)
