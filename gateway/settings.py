"""What a person may choose about a gateway: everything about a node (a gateway is one), and its own parts.

Sources, precedence and errors as in ``edge_node.settings``: ``[broker] port = 8883`` in
``<home>/settings.toml``, ``EDGEWEAVE_BROKER_PORT=8883``, ``--broker-port 8883``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from edge_node.settings import NodeSettings, Section


class JoiningSettings(Section, frozen=True, kw_only=True):
    """The HTTPS server that new nodes and renewals come to."""

    listen: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            description="Address to listen on, for joining and for the broker; 0.0.0.0: every interface.",
        ),
    ] = "0.0.0.0"  # noqa: S104 (nodes come from other machines; every byte is behind TLS and a code)
    port: Annotated[
        int, Meta(ge=0, le=65535, description="TCP port for joining; 0: any free one, told in the join code.")
    ] = 8443
    addresses: Annotated[
        list[str],
        Meta(
            description="Names or addresses under which nodes reach this machine, put into join codes and "
            "the roster; empty: those of its interfaces. Each adds about 20 characters to a code."
        ),
    ] = []  # noqa: RUF012 (msgspec copies it)


class BrokerSettings(Section, frozen=True, kw_only=True):
    """The MQTT broker that the gateway runs."""

    kind: Annotated[
        Literal["auto", "mosquitto", "embedded"],
        Meta(description="auto: mosquitto if it is installed, else the embedded one (a tenth of its speed)."),
    ] = "auto"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="TCP port of the broker; 0: any free one, told in the roster.")
    ] = 8883


class EngineSettings(Section, frozen=True, kw_only=True):
    """Where offloaded work runs."""

    processes: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="Processes of the offload engine; 0: one for each core. Each costs 12 MB and more.",
        ),
    ] = 0


class ApiSettings(Section, frozen=True, kw_only=True):
    """The HTTP API, on the port of joining."""

    lan: Annotated[
        bool,
        Meta(
            description="Serve the API to other machines too. Every request needs an account; what that "
            "risks is a guessed password, where before somebody had to be on this machine."
        ),
    ] = False
    certificate: Annotated[
        str,
        Meta(
            description="PEM file with a certificate of another CA and its chain, shown to who asks for its "
            "names; a path, or one below the home. Empty: the mesh's own, which browsers do not know."
        ),
    ] = ""
    key: Annotated[
        str,
        Meta(description="PEM file with its key; empty: in the certificate's file. Not for others to read."),
    ] = ""


class GatewaySettings(NodeSettings, frozen=True, kw_only=True):
    """Everything that may be chosen about a gateway; each field is a section."""

    joining: JoiningSettings = JoiningSettings()
    broker: BrokerSettings = BrokerSettings()
    engine: EngineSettings = EngineSettings()
    api: ApiSettings = ApiSettings()
