"""A gateway's HTTP API as people and programs reach it: over TLS, with accounts of every role."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

import httpx

from gateway.access.roles import Role
from security.certificates import read_pem
from tests.support.daemons import Daemon

PASSWORD = "correct horse battery staple"


@dataclass
class Api:
    """The API of a running gateway. ``tokens``: a bearer for each role; made by ``people``."""

    gateway: Daemon
    tokens: dict[Role, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return f"https://{self.gateway.ready['joining']}"

    def tls(self) -> ssl.SSLContext:
        """Trusts this mesh's own root alone; the gateway's certificate names no address."""
        root = (self.gateway.home.keys / "root.pem").read_bytes()
        assert read_pem(root)
        return self.trusting(root.decode())

    @staticmethod
    def trusting(root: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=root)
        return context

    def client(self, bearer: str = "", **headers: str) -> httpx.Client:
        if bearer:
            headers["authorization"] = f"Bearer {bearer}"
        return httpx.Client(base_url=self.base, verify=self.tls(), headers=headers, timeout=60)

    def of(self, role: Role) -> httpx.Client:
        return self.client(self.tokens[role])

    def set_up(self, name: str = "ann") -> httpx.Response:
        secret = self.gateway.ready["setup"].partition("#")[2]
        with self.client() as anybody:
            body = {"secret": secret, "name": name, "password": PASSWORD}
            return anybody.post("/v1/set-up", json=body)

    def log_in(self, name: str = "ann") -> httpx.Client:
        """A browser with a session, which sends its CSRF token."""
        with self.client() as anybody:
            answer = anybody.post("/v1/log-in", json={"name": name, "password": PASSWORD})
            assert answer.status_code == 200, answer.text
            browser = self.client(**{"x-csrf-token": answer.json()["csrf"]})
            browser.cookies = anybody.cookies
        return browser

    def people(self) -> Api:
        """The first administrator, and a token of each role."""
        assert self.set_up().status_code == 201
        with self.log_in() as ann:
            for role in Role:
                body = {"name": f"all-{role.word}", "role": role.word, "ttl_s": 3600}
                self.tokens[role] = ann.post("/v1/tokens", json=body).json()["secret"]
        return self
