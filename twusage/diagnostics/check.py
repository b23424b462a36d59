"""Runs a check: the credentials, then one recorded call of the client. What it means is in ``explain``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from twusage.auth import Auth, Secret, TokenProvider
from twusage.clock import Clock
from twusage.diagnostics.credentials import check_secrets
from twusage.diagnostics.explain import Attempt, explain_call
from twusage.diagnostics.report import CheckReport, Finding, report_without_call
from twusage.errors import ClientClosedError, ConfigurationError, TwUsageError
from twusage.models import Usage
from twusage.protocol import Request, Response
from twusage.transport import Transport

__all__ = ["run_check"]


async def run_check(
    credentials: TokenProvider,
    call: Callable[[Auth, Transport], Awaitable[Usage]],
    *,
    transport: Transport,
    clock: Clock,
    base_url: str,
    environ: Mapping[str, str],
) -> CheckReport:
    """Check the credentials, then call the API once, and return the report.

    Args:
        credentials: the client's.
        call: one attempt with this ``Auth`` over this transport.
        transport: the client's.
        clock: compared with the server's.
        base_url: the API's address.
        environ: the environment variables; empty if the transport may have its own proxy.
    """
    try:
        secrets = await credentials.secrets()
    except Exception as error:  # noqa: BLE001 - a caller's Auth may raise anything
        return _report_auth_failure(error)
    suspicion = check_secrets(*secrets)
    if suspicion is not None and suspicion.level == "error":
        return report_without_call(suspicion)
    is_pair = len(secrets) > 1
    auth = credentials.auth if is_pair else _RecordingAuth(credentials)
    recorder = _RecordingTransport(transport, clock)
    outcome: Usage | TwUsageError
    try:
        outcome = await call(auth, recorder)
    except Exception as error:
        if isinstance(auth, _RecordingAuth) and auth.failed:
            return _report_auth_failure(error)
        if not isinstance(error, TwUsageError) or isinstance(error, ClientClosedError | ConfigurationError):
            raise
        outcome = error.with_traceback(None)
    return explain_call(
        outcome,
        attempt=recorder.attempt,
        suspicion=suspicion,
        is_pair=is_pair,
        base_url=base_url,
        environ=environ,
    )


def _report_auth_failure(error: Exception) -> CheckReport:
    """Return the report for an ``Auth`` that raised or returned no token."""
    ours = error.with_traceback(None) if isinstance(error, TwUsageError) else None
    reason = ours or f"it raised {type(error).__name__}"  # The message of another exception may contain a secret.
    message = f"the Auth returned no bearer token: {reason}"
    finding = Finding("token.unavailable", "error", message, "Check the Auth and the service that it uses")
    return report_without_call(finding, error=ours)


class _RecordingTransport:
    """Sends over the client's transport, and records the last attempt."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self.attempt: Attempt | None = None

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - see Transport
        began, response = self._clock.monotonic(), None
        try:
            response = await self._transport.send(request, timeout=timeout)
            return response
        finally:
            self.attempt = Attempt(request.method, response, self._clock.monotonic() - began, self._clock.time())

    async def aclose(self) -> None: ...  # The client closes its transport.


class _RecordingAuth:
    """Returns the client's token, and records whether that failed."""

    def __init__(self, credentials: TokenProvider) -> None:
        self._credentials = credentials
        self.failed = False

    async def token(self) -> Secret:
        try:
            return await self._credentials.token()
        except Exception:
            self.failed = True
            raise
