"""Credentials: what a token is, and where it comes from. Nothing here ever shows one."""

from __future__ import annotations

import hashlib
import os
from typing import NoReturn, Protocol

from twusage.errors import ConfigurationError

__all__ = ["Auth", "BearerToken", "Secret", "as_auth", "as_secret", "auth_from_env"]

TOKEN_VARIABLES = ("X_BEARER_TOKEN", "TWITTER_BEARER_TOKEN", "BEARER_TOKEN")


class Secret:
    """Text that is shown to nobody: its repr, str and format are ``Secret(…)``, and a pickle of it holds nothing.

    Raises:
        ConfigurationError: it is no str, empty, or holds what an HTTP header cannot carry. The text is not quoted.
    """

    __slots__ = ("__text", "fingerprint")

    def __init__(self, text: str) -> None:
        if reason := _malformed(text):
            del text  # so that no traceback shows it
            raise ConfigurationError(reason)
        self.__text = text
        self.fingerprint: str = hashlib.sha256(text.encode()).hexdigest()
        """The SHA-256 of the text, for keys: it tells two secrets apart and gives neither away."""

    def reveal(self) -> str:
        """The text itself. Pass it on at once: a variable that holds it ends up in tracebacks."""
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

    def __reduce__(self) -> tuple[type[_Lost], tuple[()]]:
        return _Lost, ()


def _malformed(text: object) -> str | None:
    if not isinstance(text, str):
        return f"a token must be a str, got {type(text).__name__}"
    if not text:
        return "the token is empty"
    # RFC 9110 allows visible ASCII. A line break in a header would be a second header.
    if not all("!" <= character <= "~" for character in text):
        return (
            "the token holds a space, a line break or a character that is not ASCII. "
            "Give the token alone, without 'Bearer' and without quotes"
        )
    return None


class _Lost(Secret):
    """What is left of a secret after pickling."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("lost")

    def reveal(self) -> NoReturn:
        raise ConfigurationError("a Secret does not survive pickling; make the client anew in this process")


class Auth(Protocol):
    """Where the bearer token comes from. It is asked before every attempt, so a token may change in between.

    All the tokens that one ``Auth`` gives are of one project: a client may hand on a result that another token brought.
    """

    async def token(self) -> Secret | str:
        """The app-only bearer token to use now."""
        ...


class BearerToken:
    """A fixed app-only bearer token, from the developer portal. It is used verbatim: its %2F and %3D are literal.

    Raises:
        ConfigurationError: the token is empty or malformed. It is not quoted.
    """

    __slots__ = ("_secret",)

    def __init__(self, token: str) -> None:
        try:
            self._secret = Secret(token)
        except ConfigurationError as error:
            refusal = error.with_traceback(None)
        else:
            return
        del token  # so that no traceback shows it
        raise refusal

    async def token(self) -> Secret:
        """The token that was given."""
        return self._secret

    def __repr__(self) -> str:
        return "BearerToken(Secret(…))"  # whatever it holds, and even if it is but half made


def as_auth(auth: object) -> Auth:
    """A ``str`` is a bearer token. Raises ``ConfigurationError`` for what is neither that nor an ``Auth``."""
    if isinstance(auth, str):
        try:
            return BearerToken(auth)
        except ConfigurationError as error:
            refusal = error.with_traceback(None)
        del auth  # so that no traceback shows it
        raise refusal
    if callable(getattr(auth, "token", None)):
        return auth  # type: ignore[return-value]  # as far as can be seen before it is asked
    # Not quoted: bytes may well be a token.
    raise ConfigurationError(f"auth must be a bearer token (str) or an Auth, got {type(auth).__name__}")


def as_secret(token: Secret | str) -> Secret:
    """What an ``Auth`` gave, as a secret. Raises ``ConfigurationError`` where it cannot be one."""
    if isinstance(token, Secret):
        return token
    try:
        return Secret(token)
    except ConfigurationError as error:
        refusal = error.with_traceback(None)
    del token  # so that no traceback shows it
    raise refusal


def auth_from_env() -> BearerToken:
    """The credentials in the environment: the first of ``X_BEARER_TOKEN``, ``TWITTER_BEARER_TOKEN``, ``BEARER_TOKEN``
    that is not empty. Raises ``ConfigurationError`` where there is none, or where it is malformed.
    """
    for name in TOKEN_VARIABLES:
        if os.environ.get(name):
            try:
                return BearerToken(os.environ[name])
            except ConfigurationError as error:
                reason = f"{name}: {error}"
            raise ConfigurationError(reason)
    raise ConfigurationError(f"no bearer token in the environment: set {TOKEN_VARIABLES[0]}")
