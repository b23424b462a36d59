"""Secret, and the sources of bearer tokens: Auth, BearerToken, AppOnlyAuth. Nothing here shows a secret."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NoReturn, Protocol
from weakref import WeakKeyDictionary

from attrs import frozen

from twusage.clock import Clock
from twusage.errors import ClientClosedError, ConfigurationError, TwUsageError
from twusage.protocol import QUOTES, is_visible_ascii, read_token, token_request
from twusage.token_file import Flaw, read_token_file
from twusage.transport import Transport

__all__ = [
    "AppOnlyAuth",
    "Auth",
    "BearerToken",
    "Secret",
    "TokenEndpoint",
    "TokenProvider",
    "as_auth",
    "as_secret",
    "auth_from_env",
]

# One that ends in _FILE holds the path of a token file, as for secrets of containers.
TOKEN_VARIABLES = (
    "X_BEARER_TOKEN",
    "X_BEARER_TOKEN_FILE",
    "TWITTER_BEARER_TOKEN",
    "TWITTER_BEARER_TOKEN_FILE",
    "BEARER_TOKEN",
)
# Read if none of these is set: an API key and its secret.
KEY_VARIABLES = (("X_API_KEY", "X_API_SECRET"), ("TWITTER_API_KEY", "TWITTER_API_SECRET"))


class Secret:
    """A string that never appears in repr, str, format or pickle.

    Args:
        text: the secret.
        name: its name in error messages.

    Raises:
        ConfigurationError: it is not a str, is empty, contains a character that an HTTP header cannot contain, or has a
            quotation mark around it. The message does not show it.
    """

    __slots__ = ("__text", "fingerprint")

    def __init__(self, text: str, *, name: str = "token") -> None:
        if reason := _malformed(text, name):
            del text  # Keeps it out of tracebacks.
            raise ConfigurationError(reason)
        self.__text = text
        self.fingerprint: str = hashlib.sha256(text.encode()).hexdigest()
        """The SHA-256 of the text: a key that does not reveal the secret."""

    def reveal(self) -> str:
        """Return the secret. Do not store it in a variable: tracebacks show variables."""
        return self.__text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __format__(self, _: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _: object) -> Secret:
        return self

    def __reduce__(self) -> tuple[type[_UnpickledSecret], tuple[()]]:
        return _UnpickledSecret, ()


def _malformed(text: object, name: str) -> str | None:
    if not isinstance(text, str):
        return f"the {name} must be a str, got {type(text).__name__}"
    if not text:
        return f"the {name} is empty"
    # RFC 9110 allows visible ASCII. A line break in a header would be a second header.
    if not is_visible_ascii(text):
        reason = "contains a space, a line break or a character that is not ASCII"
    elif text[0] in QUOTES or text[-1] in QUOTES:  # A shell strips them, an .env file may not.
        reason = "has a quotation mark around it"
    else:
        return None
    return f"the {name} {reason}. Pass only the {name}, without 'Bearer' and without quotes"


class _UnpickledSecret(Secret):
    """An unpickled Secret: its text is not in the pickle."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("lost")

    def reveal(self) -> NoReturn:
        raise ConfigurationError("a Secret cannot be unpickled; create the client in this process")


class Auth(Protocol):
    """The source of the bearer token.

    The client calls ``token`` before every attempt, so the token may change in between; and again after a 401. If the
    new token differs from the rejected one, the call is retried once.

    All tokens of one ``Auth`` must belong to one project, because calls with different tokens may share a result.
    """

    async def token(self) -> Secret | str:
        """Return the app-only bearer token to use now."""
        ...


class BearerToken:
    """A fixed app-only bearer token, from the developer portal. It is sent verbatim: its %2F and %3D are literal.

    Raises:
        ConfigurationError: the token is empty or malformed. The message does not show it.
    """

    __slots__ = ("_secret",)

    def __init__(self, token: str | Secret) -> None:
        try:
            self._secret = as_secret(token)
        except ConfigurationError as error:
            refusal = error.with_traceback(None)
        else:
            return
        del token  # Keeps it out of tracebacks.
        raise refusal

    @property
    def secret(self) -> Secret:
        """The token."""
        return self._secret

    async def token(self) -> Secret:
        """Return the token."""
        return self._secret

    def __repr__(self) -> str:
        return "BearerToken(Secret(…))"  # Works on a half-initialized object, too.


# Exchanges an API key and its secret for a token.
FetchToken = Callable[[Secret, Secret], Awaitable[Secret]]


@frozen
class TokenEndpoint:
    """``POST /oauth2/token`` over a transport. It does not count in the window of the usage endpoint."""

    transport: Transport
    clock: Clock
    base_url: str
    timeout: float

    async def fetch_token(self, api_key: Secret, api_secret: Secret) -> Secret:
        """Return the bearer token of this API key and secret."""
        request = token_request(api_key.reveal(), api_secret.reveal(), base_url=self.base_url)
        response = await self.transport.send(request, timeout=self.timeout)
        now = dt.datetime.fromtimestamp(self.clock.time(), dt.UTC)
        return Secret(read_token(response, request=request, fetched_at=now))


class AppOnlyAuth:
    """An app's API key and secret, also called consumer keys. They are not the OAuth 2 client
    id and secret.

    The first call of a client exchanges them for the app's bearer token (``POST /oauth2/token``), which does not expire
    and is cached. After a 401 it is fetched again, once for all waiting calls. twusage never invalidates a token.
    Clients may share an AppOnlyAuth, and with it the token and the app's window.

    Raises:
        ConfigurationError: the key or the secret is empty or malformed. The message shows neither.
    """

    def __init__(self, api_key: str | Secret, api_secret: str | Secret) -> None:
        self._outcome: Secret | TwUsageError | None = None  # of the latest exchange
        self._generation = 0  # number of finished exchanges
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        try:
            self._key = as_secret(api_key, name="API key")
            self._secret = as_secret(api_secret, name="API secret")
        except ConfigurationError as error:
            refusal = error.with_traceback(None)
        else:
            self.app = self._key.fingerprint
            return
        del api_key, api_secret  # Keeps them out of tracebacks.
        raise refusal

    @property
    def _key_pair(self) -> tuple[Secret, Secret]:
        """The API key and its secret."""
        return self._key, self._secret

    @property
    def _cached_token(self) -> Secret | None:
        """The token, once fetched."""
        return self._outcome if isinstance(self._outcome, Secret) else None

    async def token(self, fetch_token: FetchToken | None = None, *, refused: Secret | None = None) -> Secret:
        """Return the cached token. If it is missing or rejected, fetch one.

        A client passes ``fetch_token``. Without it, and without a cached token, this raises ``ConfigurationError``.
        """
        cached = self._cached_token  # Read once: a client in another thread may replace it.
        # Not ``!=``: an exchange that has ended since then returned another Secret. Even if its token is the same, a
        # second exchange would only return it again.
        if cached is not None and cached is not refused:
            return cached
        if fetch_token is None:
            raise ConfigurationError("this AppOnlyAuth has no token yet: pass it to a UsageClient, which fetches one")
        generation = self._generation
        loop = asyncio.get_running_loop()
        async with self._locks.setdefault(loop, asyncio.Lock()):
            # Single flight: waiters share the result of the exchange they waited for, including a failure; otherwise
            # 100 waiters would each repeat the failing request. A cancelled exchange has no result: the next waiter
            # starts a new one.
            if self._generation == generation:
                try:
                    self._outcome = await fetch_token(self._key, self._secret)
                except (ClientClosedError, ConfigurationError):
                    raise  # Caused by this client: not a result for the others.
                except TwUsageError as error:
                    self._outcome = copy.copy(error)
                self._generation += 1
                self._locks.pop(loop, None)  # A lock that had waiters keeps its loop alive.
            outcome = self._outcome
        if isinstance(outcome, TwUsageError):
            raise copy.copy(outcome)  # A copy each: every raise adds a traceback.
        assert outcome is not None
        return outcome

    def __reduce__(self) -> tuple[type[AppOnlyAuth], tuple[Secret, Secret]]:
        return AppOnlyAuth, (self._key, self._secret)

    def __repr__(self) -> str:
        return "AppOnlyAuth(Secret(…), Secret(…))"


class TokenProvider:
    """The tokens of one client: fixed, or of an ``Auth``."""

    def __init__(self, auth: Auth, endpoint: TokenEndpoint) -> None:
        self._auth, self._endpoint = auth, endpoint
        self._static_token = auth.secret if type(auth) is BearerToken else None
        self._app_only = auth if isinstance(auth, AppOnlyAuth) else None

    @property
    def auth(self) -> Auth:
        """The ``Auth`` of the client."""
        return self._auth

    async def secrets(self) -> tuple[Secret, ...]:
        """Return the bearer token, or an API key and its secret. Only a user's ``Auth`` may do I/O for it."""
        return (await self.token(),) if self._app_only is None else self._app_only._key_pair  # noqa: SLF001 - a class of this module

    async def token(self, *, refused: Secret | None = None) -> Secret:
        """Return the token to use now. ``refused`` is one that the API rejected."""
        if self._static_token is not None:  # A fixed token cannot be refreshed.
            return self._static_token
        if self._app_only is not None:
            return await self._app_only.token(self._endpoint.fetch_token, refused=refused)
        return as_secret(await self._auth.token())

    def current(self, token: Secret) -> Secret:
        """Return the cached replacement for ``token``, or ``token``; does no I/O."""
        return token if self._app_only is None else self._app_only._cached_token or token  # noqa: SLF001 - a class of this module

    @property
    def app_key(self) -> str | None:
        """The app's key, if it is known without a token."""
        return None if self._app_only is None else self._app_only.app


def as_auth(auth: object) -> Auth:
    """Return ``auth``, or the ``BearerToken`` of a ``str``. Raises ``ConfigurationError`` if it is neither."""
    if isinstance(auth, str):
        try:
            return BearerToken(auth)
        except ConfigurationError as error:
            rejection = error.with_traceback(None)
        del auth  # Keeps it out of tracebacks.
        raise rejection
    if callable(getattr(auth, "token", None)) and not isinstance(auth, type):
        return auth  # type: ignore[return-value]  # The protocol cannot be checked further.
    # Not quoted: bytes may be a token.
    raise ConfigurationError(f"auth must be a bearer token (str) or an Auth, got {type(auth).__name__}")


def as_secret(text: Secret | str, *, name: str = "token") -> Secret:
    """Return ``text`` as a Secret. Raises ``ConfigurationError`` with ``name`` if it is malformed."""
    if isinstance(text, Secret):
        return text
    try:
        return Secret(text, name=name)
    except ConfigurationError as error:
        refusal = error.with_traceback(None)
    del text  # Keeps it out of tracebacks.
    raise refusal


def auth_from_env() -> BearerToken | AppOnlyAuth:
    """Return the credentials of the environment.

    They are the first of ``TOKEN_VARIABLES`` that is not empty; without one, ``X_API_KEY`` with ``X_API_SECRET``, or
    ``TWITTER_API_KEY`` with ``TWITTER_API_SECRET``. Raises ``ConfigurationError`` if there are none, or if they are
    malformed.
    """
    for name in TOKEN_VARIABLES:
        if os.environ.get(name):
            return BearerToken(_from_file(name) if is_file_variable(name) else _from_env(name))
    for pair in KEY_VARIABLES:
        if reason := missing_half(pair, os.environ):
            raise ConfigurationError(reason)
        if os.environ.get(pair[0]):
            return AppOnlyAuth(*map(_from_env, pair))
    key, secret = KEY_VARIABLES[0]
    raise ConfigurationError(
        f"no bearer token in the environment: set {TOKEN_VARIABLES[0]}, or both {key} and {secret}"
    )


def missing_half(pair: tuple[str, str], environ: Mapping[str, str]) -> str | None:
    """Return the error message if only one of two variables is set. An empty variable is not set."""
    for present, absent in (pair, pair[::-1]):
        if environ.get(present) and not environ.get(absent):
            return f"{present} is set, but {absent} is not"
    return None


def is_file_variable(name: str) -> bool:
    """Return whether the variable of this name holds a token file's path."""
    return name.endswith("_FILE")


def read_file_variable(name: str, environ: Mapping[str, str]) -> str | Flaw:
    """Return the token in a variable's file, or its flaw. The path is not shown."""
    return read_token_file(lambda: Path(environ[name]).open("rb"), f"the file that {name} names")


def _from_file(name: str) -> Secret:
    token = read_file_variable(name, os.environ)
    if isinstance(token, Flaw):
        raise ConfigurationError(f"{token.message}. {token.advice}")
    return Secret(token)


def _from_env(name: str) -> Secret:
    try:
        return Secret(os.environ[name], name="value")
    except ConfigurationError as error:
        reason = f"{name}: {error}"
    raise ConfigurationError(reason)
