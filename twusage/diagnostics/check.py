"""One call, watched, for a check-up. What is found is told by ``checkup``; the call itself is the client's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from twusage.auth import Auth, Secret, TokenProvider
from twusage.clock import Clock
from twusage.diagnostics import explain as checkup
from twusage.diagnostics.explain import Checkup, Exchange
from twusage.errors import ClientClosedError, ConfigurationError, TwUsageError
from twusage.models import Usage
from twusage.protocol import Request, Response
from twusage.transport import Transport

__all__ = ["examine"]


async def examine(
    credentials: TokenProvider,
    ask: Callable[[Auth, Transport], Awaitable[Usage]],
    *,
    transport: Transport,
    clock: Clock,
    base_url: str,
    environ: Mapping[str, str],
) -> Checkup:
    """Look at the credentials, then have the client ask once.

    Args:
        credentials: what the client has.
        ask: one attempt with this ``Auth``, over this transport.
        transport: the client's own.
        clock: what the time is compared with.
        base_url: where the API is.
        environ: where a proxy may stand that is not used.
    """
    try:
        secrets = await credentials.secrets()
    except Exception as error:  # noqa: BLE001 - an Auth of the user's may raise anything
        return checkup.unavailable(error)
    suspicion = checkup.read_secrets(*secrets)
    if suspicion is not None and suspicion.level == "error":
        return checkup.unasked(suspicion)
    is_pair = len(secrets) > 1
    auth = credentials.auth if is_pair else _AuthWitness(credentials)
    witness = _Witness(transport, clock)
    outcome: Usage | TwUsageError
    try:
        outcome = await ask(auth, witness)
    except Exception as error:
        if isinstance(auth, _AuthWitness) and auth.failed:
            return checkup.unavailable(error)
        if not isinstance(error, TwUsageError) or isinstance(error, ClientClosedError | ConfigurationError):
            raise
        outcome = error.with_traceback(None)
    return checkup.read_call(
        outcome,
        exchange=witness.exchange,
        suspicion=suspicion,
        is_pair=is_pair,
        base_url=base_url,
        environ=environ,
    )


class _Witness:
    """Sends through a transport, and keeps the newest exchange."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self.exchange: Exchange | None = None

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109 - as Transport has it
        began, response = self._clock.monotonic(), None
        try:
            response = await self._transport.send(request, timeout=timeout)
            return response
        finally:
            self.exchange = Exchange(request.method, response, self._clock.monotonic() - began, self._clock.time())

    async def aclose(self) -> None: ...  # The transport is another's.


class _AuthWitness:
    """Asks an ``Auth``, and knows whether it was the one that failed."""

    def __init__(self, credentials: TokenProvider) -> None:
        self._credentials = credentials
        self.failed = False

    async def token(self) -> Secret:
        try:
            return await self._credentials.token()
        except Exception:
            self.failed = True
            raise
