"""CheckReport and Finding: the values that diagnostics return. The other modules here decide their content.

===========  ===========================================================================================================
subject      its findings are about
===========  ===========================================================================================================
credentials  the environment variables that hold credentials
token, key   a bearer token; an API key and its secret
address      ``base_url``
network      the connection to the API, with ``tls`` and ``proxy``
api          the API's error responses
app          the app's project and enrollment
window       the 15-minute window of calls
cap          the monthly cap; ``credits`` and ``spending``: what the account pays for
clock        this machine's clock compared with the server's
===========  ===========================================================================================================
"""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from twusage.errors import ConfigurationError, TwUsageError
from twusage.models import Usage

__all__ = ["CheckReport", "Finding", "report_without_call"]


@frozen
class Finding:
    """One result of a check: code, level, message and advice."""

    code: str
    """A stable identifier for programs, such as ``token.percent-decoded``. The part before the dot is the subject."""
    level: Literal["ok", "warning", "error"]
    """``error``: calls fail. ``warning``: calls may fail, now or soon."""
    message: str
    """The result in one sentence. It never contains a secret."""
    advice: str = ""
    """What to do; empty if nothing is wrong."""

    @property
    def subject(self) -> str:
        """The part of the code before the dot: ``token``, ``network``, ``window``, ``cap``, ``clock`` and the like."""
        return self.code.partition(".")[0]

    def to_dict(self) -> dict[str, object]:
        """Return the finding as plain JSON types."""
        return {"code": self.code, "level": self.level, "message": self.message, "advice": self.advice}


def _short_repr(value: object) -> str:
    return "None" if value is None else f"<{type(value).__name__}>"


@frozen
class CheckReport:
    """The state of the credentials and the connection. ``await client.check()`` returns it."""

    findings: tuple[Finding, ...]
    """All findings, from the credentials to the clock. If a call failed, its likely cause is the first error."""
    usage: Usage | None = field(default=None, repr=_short_repr)
    """The usage, if the call succeeded."""
    error: TwUsageError | None = field(default=None, repr=_short_repr)
    """The exception of the call, or one for an error found without a call; ``None`` if ``ok``."""

    @property
    def ok(self) -> bool:
        """True if there is no error. There may be warnings."""
        return all(finding.level != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain JSON types, with the exception's class name."""
        return {
            "ok": self.ok,
            "error": None if self.error is None else type(self.error).__name__,
            "findings": [finding.to_dict() for finding in self.findings],
            "usage": None if self.usage is None else self.usage.to_dict(),
        }


def report_without_call(*findings: Finding, error: TwUsageError | None = None) -> CheckReport:
    """Return the report of a check that ends before a call. The call could not succeed."""
    message = next(finding.message for finding in findings if finding.level == "error")
    return CheckReport(findings, error=error or ConfigurationError(message))
