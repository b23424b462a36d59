"""TokenProvider: never shown, refused when malformed, fetched and renewed, found in the environment."""

import asyncio
import copy
import gc
import itertools
import logging
import math
import pickle
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from twusage import (
    ApiError,
    AppOnlyAuth,
    AuthenticationError,
    BearerToken,
    ClientClosedError,
    ConfigurationError,
    ConnectError,
    DecodeError,
    LocalRateLimiter,
    ProtocolError,
    RateLimitedError,
    Request,
    RequestTimeoutError,
    Response,
    RetryPolicy,
    Secret,
    ServerError,
    TwUsageError,
    UsageClient,
)
from twusage.auth import TokenEndpoint, TokenProvider, as_auth, as_secret, auth_from_env
from twusage.retry import retry_budgets_for_running_loop
from twusage.testing import FakeApi, FakeTransport, Fault, VirtualClock

TOKEN = "AAAAcanary%2Fcanary%3Dcanary"
VARIABLES = ("X_BEARER_TOKEN", "TWITTER_BEARER_TOKEN", "BEARER_TOKEN")
FILE_VARIABLES = ("X_BEARER_TOKEN_FILE", "TWITTER_BEARER_TOKEN_FILE")
PAIRS = (("X_API_KEY", "X_API_SECRET"), ("TWITTER_API_KEY", "TWITTER_API_SECRET"))
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
    "quoted": '"canary"',
    "quoted in another way": "'canary",
    "quoted by a typist": "canary`",
}


def frames_of(error: BaseException) -> str:
    """All that a person can get to read of an error. Its text, its chain, and what the frames of the package hold."""
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame.locals for frame in trace.stack if "tests" not in frame.filename]
    chain = [frames_of(each) for each in (error.__cause__, error.__context__) if each is not None]
    return f"{error} {error!r} {frames} {chain}"


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
        """No way of showing a credential shows its text, and each shows the class."""
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

    def test_pickle_holds_nothing(self, make: type[Secret | BearerToken]) -> None:
        """A pickle does not hold the text, and the unpickled object raises on use."""
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            pickled = pickle.dumps(make(TOKEN), protocol)
            assert b"canary" not in pickled
            twin = pickle.loads(pickled)
            secret = twin if isinstance(twin, Secret) else twin._secret
            assert secret != Secret(TOKEN)
            assert "lost" not in repr(twin)
            with pytest.raises(ConfigurationError, match="cannot be unpickled"):
                secret.reveal()
            assert b"canary" not in pickle.dumps(twin, protocol)

    def test_malformed(self, make: type[Secret | BearerToken]) -> None:
        """A token that no header can carry is refused on creation, and not quoted."""
        for text in MALFORMED.values():
            with pytest.raises(ConfigurationError, match="without 'Bearer' and without quotes") as caught:
                make(text)
            assert "canary" not in "".join(traceback.format_exception(caught.value))

    def test_empty(self, make: type[Secret | BearerToken]) -> None:
        """An empty token is refused. Most likely a variable that was not set."""
        with pytest.raises(ConfigurationError, match="the token is empty"):
            make("")

    @pytest.mark.parametrize(
        "token", [None, b"canary", 4711, ["canary"], object()], ids=lambda value: type(value).__name__
    )
    def test_not_text(self, make: type[Secret | BearerToken], token: Any) -> None:
        """A value that is not a str is named only by its type: bytes may be a token."""
        with pytest.raises(ConfigurationError) as caught:
            make(token)
        assert str(caught.value) == f"the token must be a str, got {type(token).__name__}"


class TestSecret:
    def test_reveals_verbatim(self) -> None:
        """The text is returned unchanged, its %2F and %3D undecoded."""
        assert Secret(TOKEN).reveal() == TOKEN

    def test_every_visible_ascii_character(self) -> None:
        """Whatever a header can carry may be in a token."""
        text = "".join(map(chr, range(0x21, 0x7F)))
        assert Secret(text).reveal() == text

    def test_compares_by_text(self) -> None:
        """Equal texts are equal secrets with equal hashes. A secret is not its text."""
        assert Secret(TOKEN) == Secret(TOKEN)
        assert hash(Secret(TOKEN)) == hash(Secret(TOKEN))
        assert Secret(TOKEN) != Secret("another")
        assert Secret(TOKEN) != TOKEN
        assert len({Secret(TOKEN), Secret(TOKEN), Secret("another")}) == 2

    def test_fingerprint(self) -> None:
        """The fingerprint is the SHA-256 of the text. The key of the app's window, the same in every process."""
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
        """The repr names the class."""
        assert repr(BearerToken(TOKEN)) == "BearerToken(Secret(…))"


class HandMade:
    """A user's Auth, which uses no class of twusage."""

    async def token(self) -> str:
        return TOKEN


def credentials(auth: object) -> TokenProvider:
    """The tokens of a client whose transport must not be used."""
    return TokenProvider(as_auth(auth), cast(TokenEndpoint, None))


class TestCredentials:
    @pytest.mark.parametrize("auth", [TOKEN, BearerToken(TOKEN), HandMade()], ids=["text", "ours", "hand-made"])
    async def test_any_object_with_a_token_method_is_called(self, auth: Any) -> None:
        """A str is taken for a bearer token, and whatever has a token method is used as it is."""
        provider = credentials(auth)
        token = await provider.token()
        assert token == Secret(TOKEN)
        assert await provider.token(refused=token) == token, "there is no other"
        assert provider.current(token) is token
        assert provider.app_key is None
        assert provider.app_key is None

    @pytest.mark.parametrize("auth", [None, b"canary", 4711, ["canary"], {"token": "canary"}, BearerToken], ids=repr)
    def test_anything_else(self, auth: Any) -> None:
        """A value that is neither text nor an Auth is refused immediately, named by its type, and not quoted."""
        for take in (credentials, UsageClient):
            with pytest.raises(ConfigurationError) as caught:
                take(auth)
            assert str(caught.value) == f"auth must be a bearer token (str) or an Auth, got {type(auth).__name__}"

    def test_client_refuses_malformed_text(self) -> None:
        """The client refuses a malformed token in its constructor, long before a request."""
        with pytest.raises(ConfigurationError, match="contains a space"):
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


# -- An API key and its secret -----------------------------------------------------------------------------------------

KEY, API_SECRET = "key-canary:1%2F", "secret-canary:%3D"
Outcome = str | BaseException


class FetchToken:
    """Returns these tokens, or raises these failures, one after the other, on release."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.exchanges: list[tuple[Secret, Secret]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, api_key: Secret, api_secret: Secret) -> Secret:
        self.exchanges.append((api_key, api_secret))
        await asyncio.sleep(0)
        await self.open.wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, str):
            return Secret(outcome)
        raise outcome


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def keys() -> AppOnlyAuth:
    return AppOnlyAuth(KEY, API_SECRET)


class TestAppOnlyAuth:
    async def test_is_fetched_once(self, keys: AppOnlyAuth) -> None:
        """A hundred concurrent callers, and all later ones, have one token of one exchange."""
        fetch_token = FetchToken("T1")
        tokens = await asyncio.gather(*(keys.token(fetch_token) for _ in range(100)))
        assert set(tokens) == {Secret("T1")}
        assert await keys.token(fetch_token) == await keys.token() == keys._cached_token == Secret("T1")
        assert fetch_token.exchanges == [(Secret(KEY), Secret(API_SECRET))]

    async def test_a_refused_token_is_renewed_once(self, keys: AppOnlyAuth) -> None:
        """Callers with the rejected token get one new token. A later caller with the old one gets it immediately."""
        fetch_token = FetchToken("T1", "T2")
        old = await keys.token(fetch_token)
        tokens = await asyncio.gather(*(keys.token(fetch_token, refused=old) for _ in range(100)))
        assert set(tokens) == {Secret("T2")}
        assert await keys.token(fetch_token, refused=old) == Secret("T2")
        assert len(fetch_token.exchanges) == 2

    async def test_the_same_token_again_is_shared_by_all(self, keys: AppOnlyAuth) -> None:
        """The API returns the same token until it is invalidated. Waiters share that result, without a new fetch."""
        fetch_token = FetchToken("T1", "T1")
        old = await keys.token(fetch_token)
        assert set(await asyncio.gather(*(keys.token(fetch_token, refused=old) for _ in range(20)))) == {old}
        assert await keys.token(fetch_token, refused=old) == old, "and so does a later caller with the old refusal"
        assert len(fetch_token.exchanges) == 2

    async def test_a_failure_is_shared_by_the_waiters(self, keys: AppOnlyAuth) -> None:
        """Twenty waiters share one failure, each as an exception of its own. The next caller fetches again."""
        failure = AuthenticationError("no", status=403, body=b"{}")
        fetch_token = FetchToken(failure, "T1")
        outcomes = await asyncio.gather(*(keys.token(fetch_token) for _ in range(20)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {AuthenticationError}
        assert len({id(outcome) for outcome in outcomes} | {id(failure)}) == 21
        assert all(isinstance(each, AuthenticationError) and each.status == 403 for each in outcomes)
        assert len(fetch_token.exchanges) == 1
        assert keys._cached_token is None
        assert await keys.token(fetch_token) == Secret("T1")

    @pytest.mark.parametrize(
        "error",
        [ClientClosedError("closed"), ConfigurationError("another loop"), ZeroDivisionError()],
        ids=lambda error: type(error).__name__,
    )
    async def test_a_failure_of_one_client_is_its_own(self, keys: AppOnlyAuth, error: Exception) -> None:
        """A closed client, or an odd transport, proves nothing about the key. The next caller fetches."""
        fetch_token = FetchToken(error, "T1")
        outcomes = await asyncio.gather(*(keys.token(fetch_token) for _ in range(3)), return_exceptions=True)
        assert outcomes == [error, Secret("T1"), Secret("T1")]
        assert len(fetch_token.exchanges) == 2

    async def test_a_cancelled_fetch_hands_over(self, keys: AppOnlyAuth) -> None:
        """If the fetching caller is cancelled, the next in line fetches. A cancelled waiter changes nothing."""
        fetch_token = FetchToken("T1")
        fetch_token.open.clear()
        tasks = [asyncio.create_task(keys.token(fetch_token)) for _ in range(4)]
        await settle()
        tasks[0].cancel()
        tasks[2].cancel()
        await settle()
        fetch_token.open.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [outcomes[1], outcomes[3]] == [Secret("T1")] * 2
        assert all(isinstance(outcomes[each], asyncio.CancelledError) for each in (0, 2))
        assert len(fetch_token.exchanges) == 2

    async def test_a_failed_renewal_leaves_no_refused_token(self, keys: AppOnlyAuth) -> None:
        """After a failed renewal, the next caller fetches, and does not use the rejected token."""
        fetch_token = FetchToken("T1", ServerError("503", status=503), "T2")
        old = await keys.token(fetch_token)
        with pytest.raises(ServerError):
            await keys.token(fetch_token, refused=old)
        assert await keys.token(fetch_token) == Secret("T2")

    async def test_needs_a_client_at_first(self, keys: AppOnlyAuth) -> None:
        """Without a token it needs a sender; with a token it needs none."""
        with pytest.raises(ConfigurationError, match="pass it to a UsageClient"):
            await keys.token()
        assert await keys.token(FetchToken("T1")) == await keys.token()

    def test_serves_one_loop_after_another(self, keys: AppOnlyAuth) -> None:
        """The token of the first loop is good on the second. A lock that was left locked is the first loop's."""
        fetch_token = FetchToken("T1", "T2")

        async def renew() -> set[Secret]:
            refused = keys._cached_token
            return set(await asyncio.gather(*(keys.token(fetch_token, refused=refused) for _ in range(5))))

        async def die() -> None:
            fetch_token.open.clear()
            asyncio.create_task(keys.token(fetch_token, refused=keys._cached_token)).add_done_callback(lambda _: None)
            await settle()
            fetch_token.open = asyncio.Event()
            fetch_token.open.set()

        assert asyncio.run(renew()) == {Secret("T1")}
        asyncio.run(die())
        assert asyncio.run(renew()) == {Secret("T2")}
        assert len(fetch_token.exchanges) == 3

    def test_keeps_no_loop_alive(self, keys: AppOnlyAuth) -> None:
        """A program that runs several loops in sequence does not collect them."""
        loops = weakref.WeakSet[asyncio.AbstractEventLoop]()

        async def renew() -> None:
            loops.add(asyncio.get_running_loop())
            await asyncio.gather(*(keys.token(FetchToken("T1", "T1"), refused=keys._cached_token) for _ in range(3)))

        for _ in range(5):
            asyncio.run(renew())
        gc.collect()
        assert len(loops) <= 1

    def test_serves_threads(self, keys: AppOnlyAuth) -> None:
        """Loops in several threads have a token each time, and the same in the end."""

        def work() -> Secret:
            return asyncio.run(keys.token(FetchToken("T1")))

        with ThreadPoolExecutor(4) as pool:
            assert {future.result() for future in [pool.submit(work) for _ in range(20)]} == {Secret("T1")}

    def test_its_app_is_the_keys(self, keys: AppOnlyAuth) -> None:
        """The window's key is the SHA-256 of the API key, whatever the token and the secret are."""
        assert keys.app == Secret(KEY).fingerprint == AppOnlyAuth(KEY, "another").app

    def test_takes_secrets(self) -> None:
        """A caller with a Secret need not reveal it."""
        assert AppOnlyAuth(Secret(KEY), Secret(API_SECRET)).app == Secret(KEY).fingerprint
        assert repr(BearerToken(Secret(TOKEN))) == "BearerToken(Secret(…))"

    @pytest.mark.parametrize("text", [*MALFORMED.values(), "", None, b"canary"])
    def test_malformed(self, text: Any) -> None:
        """Neither half may be malformed. The message names which, and no traceback shows either."""
        for name, pair in {"API key": (text, API_SECRET), "API secret": (KEY, text)}.items():
            with pytest.raises(ConfigurationError, match=f"^the {name} ") as caught:
                AppOnlyAuth(*pair)
            assert "canary" not in frames_of(caught.value)

    async def test_nothing_shows_it(self, keys: AppOnlyAuth) -> None:
        """Its repr, its attributes and its pickle are free of key, secret and token."""
        await keys.token(FetchToken("token-canary"))
        assert repr(keys) == "AppOnlyAuth(Secret(…), Secret(…))"
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            assert b"canary" not in pickle.dumps(keys, protocol)
        assert "canary" not in f"{keys} {vars(keys)}"

    async def test_a_copy_works_and_a_pickle_raises(self, keys: AppOnlyAuth) -> None:
        """A copy is the same key and fetches a token of its own. A pickle holds nothing, and raises on use."""
        await keys.token(FetchToken("T1"))
        for twin in (copy.copy(keys), copy.deepcopy(keys)):
            assert (twin.app, twin._cached_token) == (keys.app, None)
            assert await twin.token(FetchToken("T2")) == Secret("T2")
        client = UsageClient(pickle.loads(pickle.dumps(keys)), transport=FakeTransport(FakeApi()))
        with pytest.raises(ConfigurationError, match="cannot be unpickled"):
            await client.get_usage()


# -- The same, over a client -------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def api(clock: VirtualClock) -> FakeApi:
    return FakeApi(clock=clock)


def keys_of(api: FakeApi) -> AppOnlyAuth:
    return AppOnlyAuth(api.apps[0].api_key, api.apps[0].api_secret)


def client_of(api: FakeApi, auth: Any = None, **keywords: Any) -> UsageClient:
    defaults: dict[str, Any] = {"transport": FakeTransport(api), "clock": api.clock}
    return UsageClient(keys_of(api) if auth is None else auth, **defaults | keywords)


class FarAway(FakeTransport):
    """Requests take a second, too. All concurrent calls are under way before the first has failed."""

    async def send(self, request: Request, *, timeout: float) -> Response:  # noqa: ASYNC109
        await self._api.clock.sleep(1)
        return await super().send(request, timeout=timeout)


def is_token_request(request: Request) -> bool:
    return request.method == "POST"


def token_requests(api: FakeApi) -> int:
    return sum(map(is_token_request, api.requests))


def rotate(api: FakeApi, token: str = "AAAAanother%2Ftoken%3D") -> str:
    """The app's token was invalidated: from now on it has another."""
    api.apps[0].tokens[:] = [token]
    return token


def sent_with(api: FakeApi) -> list[str]:
    return [
        request.headers["authorization"].partition(" ")[2] for request in api.requests if not is_token_request(request)
    ]


class TestMinting:
    async def test_one_for_all_first_calls(self, api: FakeApi) -> None:
        """Twenty first calls of two clients that share the key. One token is fetched, before the calls."""
        keys = keys_of(api)
        async with client_of(api, keys) as one, client_of(api, keys) as two:
            await asyncio.gather(*(client.get_usage() for client in (one, two) for _ in range(10)))
        assert token_requests(api) == 1
        assert is_token_request(api.requests[0])
        assert set(sent_with(api)) == {api.apps[0].token}

    async def test_costs_no_place_and_leaves_the_window_unchanged(self, api: FakeApi, clock: VirtualClock) -> None:
        """Fifty calls still go in the first window. The headers of a fetch_token are not those of the window."""
        limits = {"x-rate-limit-limit": "450", "x-rate-limit-remaining": "3", "x-rate-limit-reset": "1768479000"}
        token_body = {"token_type": "bearer", "access_token": api.apps[0].token}
        api.fail(Fault.status(200, token_body, headers=limits), when=is_token_request)
        states = []

        class Told(LocalRateLimiter):
            def slot(self, app: str, **keywords: Any) -> Any:
                states.append((app, client.rate_limit))
                return super().slot(app, **keywords)

        async with client_of(api, limiter=Told(clock=clock)) as client:
            await asyncio.gather(*(client.get_usage() for _ in range(50)))
            rotate(api)
            assert clock.monotonic() == 0.0
            await client.get_usage()
        assert states[0][1] is None
        assert len(states) == 52
        assert {app for app, _ in states} == {Secret(api.apps[0].api_key).fingerprint}, "also after a renewal"

    @pytest.mark.parametrize(
        ("fault", "kind", "retry", "sent"),
        [
            (Fault.status(403, {"errors": [{"code": 99, "message": "no"}]}), AuthenticationError, "never", 1),
            (Fault.status(401), AuthenticationError, "never", 1),
            (Fault.status(400), AuthenticationError, "never", 1),
            (Fault.status(404), ApiError, "never", 1),
            (Fault.status(503), ServerError, "always", 4),
            (Fault.html(502), ServerError, "always", 4),
            (Fault.rate_limited(headers={}), RateLimitedError, "always", 4),
            (Fault.rate_limited(headers={"retry-after": "701"}), RateLimitedError, "always", 1),
            (Fault.html(), DecodeError, "once", 2),
            (Fault.garbled(), DecodeError, "once", 2),
            (Fault.empty(), DecodeError, "once", 2),
            (Fault.status(200, {"errors": [{"code": 99}]}), DecodeError, "once", 2),
            (Fault.status(200, {"token_type": "mac", "access_token": "AAAA"}), DecodeError, "once", 2),
            (Fault.status(200, {"token_type": "bearer", "access_token": "AAAA\n"}), DecodeError, "once", 2),
            (Fault.status(204, b""), ProtocolError, "once", 2),
            (Fault.status(302, b"", headers={"location": "https://elsewhere.test"}), ProtocolError, "never", 1),
            (Fault.reset(), ProtocolError, "always", 4),
            (Fault.disconnected(), ProtocolError, "always", 4),
            (Fault.timeout(), RequestTimeoutError, "always", 4),
            (Fault.connect_error(), ConnectError, "always", 0),
        ],
        ids=str,
    )
    async def test_what_fails(self, api: FakeApi, fault: Fault, kind: type, retry: str, sent: int) -> None:
        """Ten calls that wait for one token share its failure and its retries. No usage is requested.
        The window is not charged for it, and the next call works.
        """
        limiter = LocalRateLimiter(clock=api.clock)
        async with client_of(api, limiter=limiter, retry=RetryPolicy.none(), transport=FarAway(api)) as client:
            api.fail(fault, when=is_token_request)
            errors = await asyncio.gather(*(client.get_usage() for _ in range(10)), return_exceptions=True)
            assert {type(error) for error in errors} == {kind}
            for error in errors:
                assert isinstance(error, TwUsageError)
                assert ("once" if error.retry_once else "always" if error.retryable else "never") == retry
                assert not isinstance(error, RateLimitedError) or (
                    not error.window_exhausted and error.rate_limit is None
                )
            assert all(map(is_token_request, api.requests))
            assert len(api.requests) == min(sent, 1)
            assert client.rate_limit is None
            assert not limiter._queues, "no place was requested"
            api.assert_all_used()
            assert (await client.get_usage()).rate_limit is not None
        api.requests.clear()
        api.fail(fault, times=math.inf, when=is_token_request)
        async with client_of(api, retry=RetryPolicy(max_wait=700), timeout=5) as client:
            with pytest.raises(kind):
                await client.get_usage()
        assert len(api.requests) == sent

    async def test_what_to_do_is_said(self, api: FakeApi) -> None:
        """Wrong keys are the API's 403 with code 99. The error speaks of keys, and the API's own words are in it."""
        async with client_of(api, AppOnlyAuth("wrong-key-canary", "wrong-secret-canary")) as client:
            with pytest.raises(AuthenticationError, match=r"API key and secret \(consumer keys\)") as caught:
                await client.get_usage()
        assert caught.value.status == 403
        assert caught.value.problem.extra["code"] == 99
        assert "canary" not in frames_of(caught.value)

    async def test_its_own_429_is_waited_for_and_closes_no_window(self, api: FakeApi, clock: VirtualClock) -> None:
        """Too many token requests: a client with a token continues meanwhile."""
        api.fail(Fault.rate_limited(headers={"retry-after": "60"}), when=is_token_request)
        api.fail(Fault.slow(1), when=is_token_request)
        limiter = LocalRateLimiter(clock=clock)
        keys = keys_of(api)
        async with client_of(api, keys, limiter=limiter) as client:
            first = asyncio.create_task(client.get_usage())
            await settle()
            assert token_requests(api) == 1
            assert not limiter._queues
            await first
        assert token_requests(api) == 2
        assert 60 <= clock.monotonic() <= 902

    async def test_an_outage_is_not_multiplied(self, api: FakeApi) -> None:
        """The retries of a fetch_token are paid for by the app's budget. Ten, and then each call makes one attempt."""
        api.fail(Fault.status(503), times=math.inf)
        sent = []
        async with client_of(api) as client:
            for _ in range(5):
                before = len(api.requests)
                with pytest.raises(ServerError):
                    await client.get_usage()
                sent.append(len(api.requests) - before)
        assert sent == [4, 4, 4, 2, 1]

    async def test_closing_ends_it(self, api: FakeApi, clock: VirtualClock) -> None:
        """A client that is closed while it fetches a token ends its calls. Another client's waiting calls go on."""
        api.fail(Fault.slow(5), when=is_token_request, times=2)
        keys = keys_of(api)
        async with client_of(api, keys) as other:
            client = client_of(api, keys)
            calls = [asyncio.create_task(client.get_usage()) for _ in range(3)]
            await settle()
            patient = asyncio.create_task(other.get_usage())
            await settle()
            await client.aclose()
            assert {type(each) for each in await asyncio.gather(*calls, return_exceptions=True)} == {ClientClosedError}
            assert clock.monotonic() < 5
            assert (await patient).project_id == api.project.id
        assert token_requests(api) == 2

    def test_threads_and_loops_share_a_token(self, api: FakeApi) -> None:
        """One key for the clients of several loops, one after the other. One token is fetched."""
        keys = keys_of(api)
        for _ in range(3):
            asyncio.run(client_of(api, keys).get_usage())
        assert token_requests(api) == 1


class TestRenewal:
    @pytest.mark.parametrize("calls", [1, 20, 100])
    async def test_once_for_all(self, api: FakeApi, clock: VirtualClock, calls: int) -> None:
        """The token is rejected: one other is fetched for all calls under way and in the queue. All succeed."""
        api.rate_limit = 60
        policy = RetryPolicy(max_wait=4000)
        async with client_of(api, retry=policy, transport=FakeTransport(api, latency=1)) as client:
            await client.get_usage()
            new = rotate(api)
            api.requests.clear()
            results = await asyncio.gather(*(client.get_usage() for _ in range(calls)))
            assert len(results) == calls
        assert token_requests(api) == 1
        at = next(place for place, request in enumerate(api.requests) if is_token_request(request))
        assert set(sent_with(api)[at:]) == {new}, "calls that waited in the queue use the new token"
        assert at == min(calls, 59)
        assert len(sent_with(api)) == calls + at

    async def test_the_same_token_ends_the_call(self, api: FakeApi) -> None:
        """The API refuses the token and gives it again. The call ends with the refusal, and nothing is invalidated."""
        async with client_of(api, transport=FarAway(api)) as client:
            await client.get_usage()
            api.requests.clear()
            api.fail(Fault.status(401), when=lambda request: not is_token_request(request), times=20)
            errors = await asyncio.gather(*(client.get_usage() for _ in range(20)), return_exceptions=True)
        assert {type(error) for error in errors} == {AuthenticationError}
        assert not any(error.retryable for error in errors if isinstance(error, TwUsageError))
        assert {request.url.rpartition("/")[2] for request in api.requests} == {"token", "tweets"}
        assert len(sent_with(api)) == 20
        assert token_requests(api) == 1

    async def test_a_page_is_no_refusal(self, api: FakeApi) -> None:
        """A 401 that a proxy or a firewall sent does not fetch a new token."""
        async with client_of(api) as client:
            await client.get_usage()
            api.fail(Fault.status(401, "<html>Sign in</html>"))
            with pytest.raises(AuthenticationError) as caught:
                await client.get_usage()
        assert caught.value.from_edge
        assert token_requests(api) == 1

    async def test_a_second_refusal_ends_the_call(self, api: FakeApi) -> None:
        """A token that is refused, and then the one that took its place: no loop."""
        tokens = itertools.count()

        def renewed(_: Request) -> bool:
            rotate(api, f"AAAA-{next(tokens)}")
            return False

        async with client_of(api) as client:
            api.fail(Fault.empty(), when=lambda request: is_token_request(request) and renewed(request))
            api.fail(Fault.status(401), when=lambda request: not is_token_request(request), times=math.inf)
            with pytest.raises(AuthenticationError):
                await client.get_usage()
        assert sent_with(api) == ["AAAA-0", "AAAA-1"]

    async def test_without_retries_the_next_call_works(self, api: FakeApi) -> None:
        """RetryPolicy.none() sends no second request; the token is renewed all the same."""
        async with client_of(api, retry=RetryPolicy.none()) as client:
            await client.get_usage()
            rotate(api)
            with pytest.raises(AuthenticationError) as caught:
                await client.get_usage()
            assert caught.value.retryable
            assert len(sent_with(api)) == 2
            await client.get_usage()
        assert token_requests(api) == 2

    async def test_costs_no_retry_of_the_budget(self, api: FakeApi) -> None:
        """A renewed token does not mean an outage. It is used immediately, also with an empty retry budget."""
        async with client_of(api) as client:
            await client.get_usage()
            retry_budgets_for_running_loop()[keys_of(api).app].tokens_x10 = 0
            rotate(api)
            await client.get_usage()
        assert api.clock.monotonic() == 0.0

    async def test_a_renewal_that_fails_is_the_calls_error(self, api: FakeApi) -> None:
        """The refusal is known, what hinders is the fetch_token. It is retried as any other, and the calls succeed."""
        async with client_of(api) as client:
            await client.get_usage()
            rotate(api)
            api.fail(Fault.status(503), when=is_token_request)
            await asyncio.gather(*(client.get_usage() for _ in range(10)))
            rotate(api, "AAAAthird")
            api.fail(Fault.status(403), when=is_token_request)
            with pytest.raises(AuthenticationError, match="API key and secret"):
                await client.get_usage()


class Vault:
    """A rotating secret of the user's, the whole of it."""

    def __init__(self, *tokens: Any) -> None:
        self.tokens = list(tokens)

    async def token(self) -> Any:
        token = self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
        if isinstance(token, Exception):
            raise token
        return token


class TestAnAuthOfOnesOwn:
    async def test_another_token_is_tried_once(self, api: FakeApi) -> None:
        """After a 401 it is called once more. Another token is tried immediately."""
        async with client_of(api, Vault("AAAAold", api.apps[0].token)) as client:
            await client.get_usage()
        assert sent_with(api) == ["AAAAold", api.apps[0].token]
        assert api.clock.monotonic() == 0.0

    async def test_a_third_is_not_tried(self, api: FakeApi) -> None:
        """Two refusals are enough, however many tokens there are."""
        async with client_of(api, Vault("AAAA1", "AAAA2", "AAAA3", "AAAA4", "AAAA5")) as client:
            with pytest.raises(AuthenticationError):
                await client.get_usage()
        assert len(sent_with(api)) == 2

    async def test_the_same_token_is_not_tried_again(self, api: FakeApi) -> None:
        """The same token would be refused again."""
        async with client_of(api, Vault("AAAAold")) as client:
            with pytest.raises(AuthenticationError) as caught:
                await client.get_usage()
        assert not caught.value.retryable
        assert len(api.requests) == 1

    @pytest.mark.parametrize("before", [[], ["AAAAold"]], ids=["at first", "after a 401"])
    async def test_its_own_error_passes(self, api: FakeApi, before: list[str]) -> None:
        """What it raises is raised to the caller, as it is."""
        error = LookupError("the vault is locked")
        async with client_of(api, Vault(*before, error)) as client:
            with pytest.raises(LookupError) as caught:
                await client.get_usage()
        assert caught.value is error

    @pytest.mark.parametrize("junk", [None, "", "canary\n", b"canary", 4711, ["canary"]], ids=repr)
    async def test_junk_is_refused(self, api: FakeApi, junk: Any) -> None:
        """A value that cannot be a token is refused before anything is sent, and not shown."""
        async with client_of(api, Vault(junk)) as client:
            with pytest.raises(ConfigurationError, match=r"^the token ") as caught:
                await client.get_usage()
        assert "canary" not in frames_of(caught.value)
        assert not api.requests


# -- The environment ---------------------------------------------------------------------------------------------------


class TestFromEnvironment:
    @pytest.fixture(autouse=True)
    def nothing_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment of the test run may have a token."""
        for name in (*VARIABLES, *FILE_VARIABLES, *itertools.chain(*PAIRS)):
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
    def test_malformed_is_refused_by_name(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A malformed value is refused, not passed over. The message names its variable and does not quote it."""
        for text in ["canary\n", "Bearer canary", "canaryé", " "]:
            monkeypatch.setenv(name, text)
            with pytest.raises(ConfigurationError, match=f"^{name}: the value contains") as caught:
                auth_from_env()
            assert "canary" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("text", ['"canary"', "'canary'", 'canary"'])
    def test_quotation_marks(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Empty variables of an .env file are named as the cause, and cost no call."""
        monkeypatch.setenv("X_BEARER_TOKEN", text)
        with pytest.raises(ConfigurationError, match=r"^X_BEARER_TOKEN: the value has a quotation mark") as caught:
            auth_from_env()
        assert "canary" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("name", FILE_VARIABLES)
    async def test_a_token_file(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A container's secret. White space around the token, and a byte order mark, do not matter."""
        file = tmp_path / "token"
        file.write_text(f"\ufeff{TOKEN}\r\n", encoding="utf-8")
        monkeypatch.setenv(name, str(file))
        assert await auth_from_env().token() == Secret(TOKEN)

    async def test_a_variable_goes_before_the_file_of_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each file comes after the variable of its name, and before the names that follow, keys included."""
        for name in FILE_VARIABLES:
            (tmp_path / name).write_text(f"token-{name}")
            monkeypatch.setenv(name, str(tmp_path / name))
        for name in ("BEARER_TOKEN", *PAIRS[0]):
            monkeypatch.setenv(name, "other")
        assert await auth_from_env().token() == Secret("token-X_BEARER_TOKEN_FILE")
        monkeypatch.setenv("X_BEARER_TOKEN_FILE", "")
        assert await auth_from_env().token() == Secret("token-TWITTER_BEARER_TOKEN_FILE")
        monkeypatch.setenv("X_BEARER_TOKEN", "token-X_BEARER_TOKEN")
        assert await auth_from_env().token() == Secret("token-X_BEARER_TOKEN")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "is empty. The file must contain the token and nothing else, in UTF-8"),
            ("canary-canary".encode("utf-16"), "is UTF-16 text. The file must contain"),
            (b"X_BEARER_TOKEN=canary-canary", "contains an assignment or JSON"),
            (b"canary canary", "contains several words"),
            (None, "cannot be read: No such file or directory. Give the path of a readable file"),
        ],
    )
    def test_a_file_without_a_token(
        self, content: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is refused by the rules of --token-file. Neither its path nor its content is shown."""
        file = tmp_path / "canary"
        if content is not None:
            file.write_bytes(content)
        monkeypatch.setenv("X_BEARER_TOKEN_FILE", str(file))
        monkeypatch.setenv("BEARER_TOKEN", "canary")
        with pytest.raises(ConfigurationError) as caught:
            auth_from_env()
        assert reason in str(caught.value)
        assert "canary" not in frames_of(caught.value) + "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("first", range(2))
    def test_keys(self, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a token, the first pair of API key and secret."""
        for key, secret in PAIRS[first:]:
            monkeypatch.setenv(key, f"key-{key}")
            monkeypatch.setenv(secret, f"secret-{key}")
        auth = auth_from_env()
        assert isinstance(auth, AppOnlyAuth)
        assert auth.app == Secret(f"key-{PAIRS[first][0]}").fingerprint
        assert auth._secret == Secret(f"secret-{PAIRS[first][0]}")

    def test_a_token_goes_before_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever pair is set, and half of one, too."""
        for name in ("BEARER_TOKEN", "X_API_KEY", *PAIRS[1]):
            monkeypatch.setenv(name, TOKEN)
        assert isinstance(auth_from_env(), BearerToken)

    @pytest.mark.parametrize("pair", PAIRS)
    @pytest.mark.parametrize("half", range(2))
    @pytest.mark.parametrize("other", [None, ""])
    def test_half_a_pair_is_a_mistake(
        self, pair: tuple[str, str], half: int, other: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One of two is refused by the names of both, even if a later pair is complete. An empty one is not set."""
        for name in PAIRS[1]:
            monkeypatch.setenv(name, "canary")
        monkeypatch.setenv(pair[half], "canary")
        monkeypatch.delenv(pair[1 - half], raising=False)
        if other is not None:
            monkeypatch.setenv(pair[1 - half], other)
        with pytest.raises(ConfigurationError, match=f"^{pair[half]} is set, but {pair[1 - half]} is not$") as caught:
            auth_from_env()
        assert "canary" not in frames_of(caught.value)

    @pytest.mark.parametrize("name", [*itertools.chain(*PAIRS)])
    def test_a_malformed_half_is_refused_by_name(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """And not quoted."""
        pair = next(pair for pair in PAIRS if name in pair)
        for each in pair:
            monkeypatch.setenv(each, "canary")
        monkeypatch.setenv(name, "canary canary")
        with pytest.raises(ConfigurationError, match=f"^{name}: the value contains a space") as caught:
            auth_from_env()
        assert "canary" not in frames_of(caught.value)

    async def test_a_client_of_the_keys(self, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
        """from_env needs a key and its secret, and nothing more."""
        monkeypatch.setenv("X_API_KEY", api.apps[1].api_key)
        monkeypatch.setenv("X_API_SECRET", api.apps[1].api_secret)
        async with UsageClient.from_env(transport=FakeTransport(api), clock=api.clock) as client:
            await client.get_usage()
        assert sent_with(api) == [api.apps[1].token]


MAKERS: dict[str, Callable[[Any], object]] = {
    "Secret": Secret,
    "BearerToken": BearerToken,
    "TokenProvider": credentials,
    "as_secret": as_secret,
    "UsageClient": UsageClient,
    "from_env": lambda _: UsageClient.from_env(),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_no_traceback_shows_a_malformed_token(maker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token with a line break is still a token. No frame of ours has it for an error reporter."""
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
