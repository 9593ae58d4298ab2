"""What only a gateway has to be examined for: its ports, its broker, the certificates that it shows.

The rest is as on a node (``edge_node.doctor``, ``edge_node.probes``). Nothing is changed.
"""

from __future__ import annotations

import time
from typing import Any, Final

from cryptography import x509

from edge_node.doctor import Finding, judged_s, port_free, program_found, surely_passed_s
from edge_node.home import Home
from gateway.access.access import ACCESS, AUDIT, opened
from gateway.access.audit import verify_file
from gateway.api.given import WARN_DAYS, files_of, read
from gateway.settings import GatewaySettings
from security.certificates import not_after_s, renewal_due_s
from security.errors import BadInput

DAY_S: Final = 86400


def examine(home: Home, settings: GatewaySettings, status: dict[str, Any] | None) -> list[Finding]:
    """Args: status: of the running daemon; None: there is none, so its ports must be free."""
    findings = []
    if status is None:
        listen = settings.joining.listen
        findings += [
            port_free("joining", listen, settings.joining.port),
            port_free("broker", listen, settings.broker.port),
        ]
    wanted = settings.broker.kind == "mosquitto"
    program = program_found("mosquitto", wanted=wanted)
    if settings.broker.kind == "auto" and "not installed" in program.detail:
        text = "mosquitto is not installed: the embedded broker serves, at a tenth of its speed"
        program = Finding(program.check, "ok", text)
    findings.append(program)
    findings += broker_certificate(home, judged_s(time.time(), surely_passed_s(home)))
    findings += given_certificate(home, settings, time.time())
    findings += audit_log(home)
    return findings


def audit_log(home: Home) -> list[Finding]:
    """Whether every change is still noted as it was."""
    file = home.path / ACCESS
    try:
        verdict = verify_file(home.path / AUDIT, opened(file.read_bytes(), file).audit)
    except FileNotFoundError:
        return []  # before the first `up`
    except (OSError, BadInput) as error:
        cause, fix = (
            (error.cause, error.fix) if isinstance(error, BadInput) else (f"{error}", "run as its owner")
        )
        return [Finding("audit log", "fail", cause, fix)]
    if verdict.broken_at is not None:
        fix = "compare it with a backup; `edge-gateway audit verify` says more"
        return [Finding("audit log", "fail", verdict.reason, fix)]
    return [Finding("audit log", "ok", f"{verdict.entries} entries, whole")]


def given_certificate(home: Home, settings: GatewaySettings, now_s: float) -> list[Finding]:
    """The one of ``[api] certificate``: browsers refuse it once it has expired, and nobody here renews it."""
    if not settings.api.certificate:
        return []
    chain, key = files_of(home.path, settings.api)
    try:
        shown = read(chain, key, int(now_s))
    except BadInput as error:
        return [Finding("given cert", "fail", error.cause, error.fix)]
    days = (shown.until_s - now_s) / DAY_S
    if days < WARN_DAYS:
        return [Finding("given cert", "warn", f"{days:.0f} days left", f"renew {chain}")]
    return [Finding("given cert", "ok", f"{days:.0f} days left, for {', '.join(shown.names) or 'addresses'}")]


def broker_certificate(home: Home, now_s: float) -> list[Finding]:
    """The one that every node sees first; mosquitto and nodes refuse it once it has expired."""
    file = home.keys / "broker.pem"
    try:
        leaf = x509.load_pem_x509_certificates(file.read_bytes())[0]
    except FileNotFoundError:
        return []  # before the first `up`
    except (OSError, ValueError, IndexError):
        fix = f"remove {file}: the next `edge-gateway up` makes it anew"
        return [Finding("broker cert", "fail", f"{file} holds no certificate", fix)]
    days = (not_after_s(leaf) - now_s) / DAY_S
    overdue_days = (now_s - renewal_due_s(leaf)) / DAY_S
    if days < 0:
        return [Finding("broker cert", "fail", f"expired {-days:.0f} days ago", "restart the gateway")]
    if overdue_days > 1:
        text = f"{days:.0f} days left, its renewal is overdue by {overdue_days:.0f} days"
        return [Finding("broker cert", "warn", text, "restart the gateway: it renews what is due")]
    return [Finding("broker cert", "ok", f"{days:.0f} days left")]
