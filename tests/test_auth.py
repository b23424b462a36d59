"""Credentials: never shown, refused when malformed, found in the environment."""

import copy
import logging
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from twusage import BearerToken, ConfigurationError, Secret, UsageClient
from twusage.auth import as_auth, as_secret, auth_from_env

TOKEN = "AAAAcanary%2Fcanary%3Dcanary"
VARIABLES = ("X_BEARER_TOKEN", "TWITTER_BEARER_TOKEN", "BEARER_TOKEN")
MALFORMED = {
    "carriage return": "canary\r",
    "line feed": "canary\ncanary",
    "a header more": "canary\r\nX-Evil: 1",
    "nul": "canary\0",
    "space": "can ary",
    "leading space": " canary",
    "tab": "canary\t",
    "delete": "canary\x7f",
    "not ascii": "canaryé",
    "digits of another script": "canary٣",
    "half a character": "canary\udcff",
    "the scheme with it": "Bearer canary",
}

SHOWN: dict[str, Callable[[Any], str]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "format": lambda secret: format(secret, ""),
    "format with a width": lambda secret: f"{secret!s:>80}",
    "f-string": lambda secret: f"{secret} {secret!r} {secret!s}",
    "percent": lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - old code and logging do this
    "in a list": lambda secret: f"{[secret]}",
    "copied": lambda secret: repr(copy.copy(secret)),
    "copied deep": lambda secret: repr(copy.deepcopy([secret])),
    "what dir finds": lambda secret: repr([getattr(secret, name) for name in dir(secret) if not name.startswith("_")]),
}


@pytest.mark.parametrize("make", [Secret, BearerToken])
class TestShown:
    @pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
    def test_nothing_shows_the_text(self, make: type[Secret | BearerToken], show: Callable[[Any], str]) -> None:
        """No way of showing a credential shows its text, and each says what it is."""
        shown = show(make(TOKEN))
        assert "canary" not in shown
        assert "Secret(" in shown

    def test_logging(self, make: type[Secret | BearerToken], caplog: pytest.LogCaptureFixture) -> None:
        """A log line about a credential does not hold it."""
        with caplog.at_level(logging.DEBUG):
            logging.getLogger("test").debug("with %s and %r", make(TOKEN), make(TOKEN))
        assert "Secret(…)" in caplog.text
        assert "canary" not in caplog.text

    def test_copies_still_work(self, make: type[Secret | BearerToken]) -> None:
        """A copy is as good as what it was made from."""
        for duplicate in (copy.copy, copy.deepcopy):
            twin = duplicate(make(TOKEN))
            secret = twin if isinstance(twin, Secret) else twin._secret
            assert secret.reveal() == TOKEN

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_pickle_holds_nothing(self, make: type[Secret | BearerToken], protocol: int) -> None:
        """A pickle does not hold the text, and what comes out of it says so instead of working wrongly."""
        pickled = pickle.dumps(make(TOKEN), protocol)
        assert b"canary" not in pickled
        twin = pickle.loads(pickled)
        secret = twin if isinstance(twin, Secret) else twin._secret
        assert secret != Secret(TOKEN)
        assert "lost" not in repr(twin)
        with pytest.raises(ConfigurationError, match="does not survive pickling"):
            secret.reveal()
        assert b"canary" not in pickle.dumps(twin, protocol)

    @pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
    def test_malformed(self, make: type[Secret | BearerToken], text: str) -> None:
        """A token that no header can carry is refused when it is given, and not quoted."""
        with pytest.raises(ConfigurationError, match="without 'Bearer' and without quotes") as caught:
            make(text)
        assert "canary" not in "".join(traceback.format_exception(caught.value))

    def test_empty(self, make: type[Secret | BearerToken]) -> None:
        """An empty token is refused: most likely a variable that was not set."""
        with pytest.raises(ConfigurationError, match="the token is empty"):
            make("")

    @pytest.mark.parametrize(
        "token", [None, b"canary", 4711, ["canary"], object()], ids=lambda value: type(value).__name__
    )
    def test_not_text(self, make: type[Secret | BearerToken], token: Any) -> None:
        """What is no str is named by its type alone: bytes may well be a token."""
        with pytest.raises(ConfigurationError) as caught:
            make(token)
        assert str(caught.value) == f"a token must be a str, got {type(token).__name__}"


class TestSecret:
    def test_reveals_verbatim(self) -> None:
        """The text comes back as it was given, its %2F and %3D undecoded."""
        assert Secret(TOKEN).reveal() == TOKEN

    def test_every_visible_ascii_character(self) -> None:
        """Whatever a header can carry may be in a token."""
        text = "".join(map(chr, range(0x21, 0x7F)))
        assert Secret(text).reveal() == text

    def test_compares_by_text(self) -> None:
        """Equal texts are equal secrets with equal hashes; a secret is not its text."""
        assert Secret(TOKEN) == Secret(TOKEN)
        assert hash(Secret(TOKEN)) == hash(Secret(TOKEN))
        assert Secret(TOKEN) != Secret("another")
        assert Secret(TOKEN) != TOKEN
        assert len({Secret(TOKEN), Secret(TOKEN), Secret("another")}) == 2

    def test_fingerprint(self) -> None:
        """The fingerprint is the SHA-256 of the text: the key of the app's window, the same in every process."""
        assert Secret("abc").fingerprint == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    def test_takes_no_attributes(self) -> None:
        """A secret has no ``__dict__`` that a debugger or ``vars`` would show."""
        with pytest.raises(TypeError):
            vars(Secret(TOKEN))

    @pytest.mark.parametrize("protocol", [0, 1])
    def test_old_pickles_hold_nothing(self, protocol: int) -> None:
        """The old text protocols do not show the text either."""
        pickled = pickle.dumps(Secret(TOKEN), protocol)
        assert b"canary" not in pickled
        assert "canary" not in repr(pickle.loads(pickled))


class TestBearerToken:
    async def test_gives_its_token(self) -> None:
        """A fixed token is given at every asking, as a secret."""
        token = BearerToken(TOKEN)
        assert await token.token() == Secret(TOKEN)
        assert (await token.token()).reveal() == TOKEN

    def test_repr(self) -> None:
        """The repr says what it is."""
        assert repr(BearerToken(TOKEN)) == "BearerToken(Secret(…))"


class HandMade:
    """Somebody's own Auth, which knows nothing of twusage's classes."""

    async def token(self) -> str:
        return TOKEN


class TestAsAuth:
    async def test_text_is_a_bearer_token(self) -> None:
        """A str is taken for a bearer token."""
        auth = as_auth(TOKEN)
        assert isinstance(auth, BearerToken)
        assert await auth.token() == Secret(TOKEN)

    @pytest.mark.parametrize("auth", [BearerToken(TOKEN), HandMade()], ids=["ours", "hand-made"])
    def test_an_auth_stays_itself(self, auth: Any) -> None:
        """Whatever has a token method is used as it is."""
        assert as_auth(auth) is auth

    @pytest.mark.parametrize("auth", [None, b"canary", 4711, ["canary"], {"token": "canary"}], ids=repr)
    def test_anything_else(self, auth: Any) -> None:
        """What is neither text nor an Auth is refused by the client at once, named by its type, and not quoted."""
        for take in (as_auth, UsageClient):
            with pytest.raises(ConfigurationError) as caught:
                take(auth)
            assert str(caught.value) == f"auth must be a bearer token (str) or an Auth, got {type(auth).__name__}"

    def test_client_refuses_malformed_text(self) -> None:
        """The client refuses a malformed token in its constructor, long before a request."""
        with pytest.raises(ConfigurationError, match="holds a space"):
            UsageClient("Bearer canary")

    def test_client_takes_a_hand_made_auth(self) -> None:
        """A user's own Auth is as good as ours, and the client does not show it."""
        assert "canary" not in repr(UsageClient(HandMade()))
        assert "canary" not in repr(UsageClient(TOKEN))


class TestAsSecret:
    def test_text_becomes_a_secret(self) -> None:
        """An Auth may give plain text."""
        assert as_secret(TOKEN) == Secret(TOKEN)

    def test_a_secret_stays_itself(self) -> None:
        """An Auth may give a Secret."""
        secret = Secret(TOKEN)
        assert as_secret(secret) is secret

    @pytest.mark.parametrize("token", [None, b"canary", "canary\n", ""], ids=repr)
    def test_what_an_auth_must_not_give(self, token: Any) -> None:
        """What an Auth gave is checked like any token, and not quoted."""
        with pytest.raises(ConfigurationError) as caught:
            as_secret(token)
        assert "canary" not in str(caught.value)


class TestFromEnvironment:
    @pytest.fixture(autouse=True)
    def nothing_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever runs the tests may have a token of their own."""
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize("first", range(3))
    async def test_order_of_names(self, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first variable that is set wins."""
        for name in VARIABLES[first:]:
            monkeypatch.setenv(name, f"token-{name}")
        assert await auth_from_env().token() == Secret(f"token-{VARIABLES[first]}")

    async def test_empty_is_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty variable is passed over, as a shell's ``X_BEARER_TOKEN=`` means it."""
        for name, text in {"X_BEARER_TOKEN": "", "TWITTER_BEARER_TOKEN": "", "BEARER_TOKEN": TOKEN}.items():
            monkeypatch.setenv(name, text)
        assert await auth_from_env().token() == Secret(TOKEN)

    @pytest.mark.parametrize("environ", [{}, dict.fromkeys(VARIABLES, ""), {"X_SOMETHING": "canary"}])
    def test_nothing_is_set(self, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a token, the message names the variable to set."""
        for name, text in environ.items():
            monkeypatch.setenv(name, text)
        with pytest.raises(ConfigurationError, match="set X_BEARER_TOKEN") as caught:
            auth_from_env()
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize("name", VARIABLES)
    @pytest.mark.parametrize("text", ["canary\n", "Bearer canary", "canaryé", " "], ids=repr)
    def test_malformed_is_refused_by_name(self, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A malformed value is refused, not passed over; the message names its variable and does not quote it."""
        monkeypatch.setenv(name, text)
        with pytest.raises(ConfigurationError, match=f"^{name}: the token holds") as caught:
            auth_from_env()
        assert "canary" not in "".join(traceback.format_exception(caught.value))


MAKERS: dict[str, Callable[[Any], object]] = {
    "Secret": Secret,
    "BearerToken": BearerToken,
    "as_auth": as_auth,
    "as_secret": as_secret,
    "UsageClient": UsageClient,
    "from_env": lambda _: UsageClient.from_env(),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_no_traceback_shows_a_malformed_token(maker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token with a line break is still a token: no frame of ours keeps it where an error reporter looks."""
    monkeypatch.setenv("X_BEARER_TOKEN", "canary-" * 5 + "\n")
    with pytest.raises(ConfigurationError) as caught:
        MAKERS[maker]("canary-" * 5 + "\n")
    shown = ""
    frame = caught.value.__traceback__
    while frame is not None:
        if "test_auth" not in frame.tb_frame.f_code.co_filename:
            shown += repr(frame.tb_frame.f_locals)
        frame = frame.tb_next
    assert caught.value.__context__ is None
    assert "canary" not in shown
