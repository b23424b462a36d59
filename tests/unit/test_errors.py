"""The exceptions: their tree, their data, and their pickles and copies."""

import copy
import datetime as dt
import inspect
import pickle
import re
from typing import Any

import pytest

from twusage import Problem, RateLimit, errors
from twusage.errors import (
    ApiError,
    BudgetExceededError,
    ConnectError,
    DecodeError,
    HistoryError,
    ProtocolError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    SpendCapReachedError,
    TlsError,
    TransportError,
    TwUsageError,
)
from twusage.protocol import Headers

CLASSES: list[type[TwUsageError]] = [getattr(errors, name) for name in errors.__all__]
INSTANT = dt.datetime(2026, 4, 14, tzinfo=dt.UTC)
ANSWER: dict[str, Any] = {
    "status": 403,
    "headers": Headers({"x-transaction-id": "abc"}),
    "body": b'{"title":"t"}',
    "problem": Problem(title="t", extra={"reset_date": "2026-04-14"}),
    "rate_limit": RateLimit(50, 0, INSTANT),
    "request_id": "abc",
    "retry_at": INSTANT,
    "retry_after": 12.5,
}
# What DESIGN.md draws, by hand: the docstring is compared with it below, and the classes with the docstring.
DESIGN: dict[str, set[str]] = {
    "TwUsageError": {"Exception"},
    "InvalidRequestError": {"TwUsageError", "ValueError"},
    "ConfigurationError": {"TwUsageError"},
    "ClientClosedError": {"TwUsageError"},
    "BudgetExceededError": {"TwUsageError"},
    "TransportError": {"TwUsageError"},
    "ConnectError": {"TransportError"},
    "TlsError": {"ConnectError"},
    "RequestTimeoutError": {"TransportError"},
    "ProtocolError": {"TransportError"},
    "DecodeError": {"TwUsageError"},
    "RateLimitedError": {"TwUsageError"},
    "HistoryError": {"TwUsageError"},
    "ApiError": {"TwUsageError"},
    "BadRequestError": {"ApiError"},
    "AuthenticationError": {"ApiError"},
    "ForbiddenError": {"ApiError"},
    "ServerError": {"ApiError"},
    "QuotaError": {"ApiError"},
    "UsageCapExceededError": {"QuotaError"},
    "CreditsDepletedError": {"QuotaError"},
    "SpendCapReachedError": {"QuotaError"},
}


def drawn_tree() -> dict[str, set[str]]:
    """The ASCII tree of the module's docstring: each class with its bases."""
    tree: dict[str, set[str]] = {}
    branch: list[str] = []
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        found = re.match(
            r"    (?P<stem>(?:[│ ]   )*(?:[├└]── )?)(?P<name>[A-Z]\w+Error)(?:\((?P<more>\w+)\))?(?: |$)", line
        )
        if found:
            depth = len(found["stem"]) // 4
            branch[depth:] = [found["name"]]
            tree[found["name"]] = {*branch[depth - 1 : depth], *([found["more"]] if found["more"] else [])}
    return tree


def public_bases(cls: type) -> set[str]:
    """The bases of a class, a private one standing for its own."""
    names: set[str] = set()
    for base in cls.__bases__:
        names |= public_bases(base) if base.__name__.startswith("_") else {base.__name__}
    return names


def everything(error: TwUsageError) -> dict[str, Any]:
    """All that an error carries, class attributes included."""
    names = [name for name in dir(error) if not name.startswith("_") and name not in {"with_traceback", "add_note"}]
    return {name: getattr(error, name) for name in names} | {"args": error.args, "str": str(error)}


def full(cls: type[TwUsageError]) -> TwUsageError:
    """An error of this class with all the data it can carry."""
    keywords: dict[str, Any] = {"retry_at": INSTANT, "retryable": True}
    if issubclass(cls, BudgetExceededError):
        keywords |= {"requested": 100, "remaining": 7}
    elif issubclass(cls, DecodeError):
        keywords = {"path": "$.data.project_cap", "excerpt": "true", "retry_once": True}
    elif issubclass(cls, ApiError | RateLimitedError):
        keywords = dict(ANSWER)
        if issubclass(cls, SpendCapReachedError):
            keywords["reset_date"] = INSTANT.date()
        if issubclass(cls, RateLimitedError):
            keywords["window_exhausted"] = False
    elif cls is HistoryError:
        keywords["kind"] = "locked"
    return cls("what happened", **keywords)


def test_tree_is_the_designed_one() -> None:
    """The docstring draws the tree that the design draws, and all of it."""
    assert drawn_tree() == DESIGN


def test_bases_are_the_drawn_ones() -> None:
    """Every class has the base that the docstring draws."""
    for cls in CLASSES:
        assert public_bases(cls) == drawn_tree()[cls.__name__]


def test_all_lists_every_error() -> None:
    """``__all__`` is sorted and leaves no public exception out."""
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert errors.__all__ == sorted(name for name in defined if not name.startswith("_"))
    assert set(errors.__all__) == set(DESIGN)


def test_only_transient_errors_are_retryable() -> None:
    """A connection, a timeout, a used-up window and a server error are retryable; nothing else is."""
    for cls in CLASSES:
        assert cls("x").retryable is (cls in {ConnectError, RequestTimeoutError, RateLimitedError, ServerError})
        assert cls("x").retry_once is False
        assert cls("x").retry_at is None


def test_message_is_all_that_is_shown() -> None:
    """The printed text is the message, without the data, which may hold an echo."""
    for cls in CLASSES:
        error = full(cls)
        assert str(error) == "what happened"
        assert repr(error) == f"{cls.__name__}('what happened')"


def test_pickles() -> None:
    """Every error survives every pickle protocol with its class, its message and all its data."""
    for cls in CLASSES:
        for make in [lambda cls: cls("bare"), lambda cls: cls(), full]:
            error = make(cls)
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                twin = pickle.loads(pickle.dumps(error, protocol))
                assert type(twin) is cls
                assert everything(twin) == everything(error)


def test_copies() -> None:
    """A copy of an error is another object with the same data."""
    for cls in CLASSES:
        for duplicate in [copy.copy, copy.deepcopy]:
            error = full(cls)
            twin = duplicate(error)
            assert twin is not error
            assert type(twin) is cls
            assert everything(twin) == everything(error)


def test_full_differs_from_bare() -> None:
    """The two tests above would prove nothing if no data were there to lose."""
    for cls in CLASSES:
        assert everything(full(cls)) != everything(cls("what happened"))


def test_flags_of_one_error_are_its_own() -> None:
    """Flags given to one error leave its class alone."""
    once = ProtocolError("x", retry_once=True)
    assert (once.retryable, once.retry_once) == (True, True)
    assert ProtocolError("x", retryable=True).retryable is True
    assert ConnectError("x", retryable=False).retryable is False
    assert TransportError("x", retry_at=INSTANT).retry_at == INSTANT
    assert (ProtocolError("x").retryable, ProtocolError("x").retry_once) == (False, False)
    assert ConnectError("x").retryable is True
    assert TransportError("x").retry_at is None


def test_tls_error_is_a_connect_error_that_is_not_retried() -> None:
    """A certificate error is not transient, but nothing was sent. The place in the window is refunded."""
    assert issubclass(TlsError, ConnectError)
    assert TlsError("x").retryable is False


def test_invalid_request_is_a_value_error() -> None:
    """Code that catches ValueError for a wrong argument catches this."""
    with pytest.raises(ValueError, match="days"):
        raise errors.InvalidRequestError("days must be between 1 and 90, got 91")


@pytest.mark.parametrize("cls", [ApiError, RateLimitedError, SpendCapReachedError])
def test_defaults_of_an_answer(cls: type[ApiError | RateLimitedError]) -> None:
    """An error without a response has empty data of its own, not shared with the next one."""
    error = cls("x")
    assert (error.status, error.body, error.rate_limit, error.request_id, error.retry_after) == (
        None,
        b"",
        None,
        None,
        None,
    )
    assert error.headers == {}
    assert error.problem == Problem()
    assert error.headers is not cls("y").headers
    assert getattr(error, "window_exhausted", True) is True
    assert getattr(error, "reset_date", None) is None


def test_defaults_of_a_decode_error() -> None:
    """A DecodeError that names no place means the whole document."""
    assert (DecodeError("x").path, DecodeError("x").excerpt) == ("$", "")
