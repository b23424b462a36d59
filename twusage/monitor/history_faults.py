"""Drivers' errors as kinds of HistoryError. Imports no driver.

What belongs here: which error code means which kind, and advice for each kind.
"""

__all__ = ["CAUSES", "LOCK_TIMEOUT", "postgresql_kind", "sqlite_kind"]

# Seconds that a transaction waits for the lock of another one.
LOCK_TIMEOUT = 5
CAUSES = {
    "locked": f"another program has locked it for more than {LOCK_TIMEOUT} s; try again",
    "full": "no space left; free some space or raise the quota",
    "corrupt": "its data is corrupt, and was not changed; restore a backup, or load an export into a new history",
    "not-a-history": "it is not a twusage history, and was not changed; use another path",
    "read-only": "writing is not permitted; check the permissions of the file and directory, or of the user",
    "unreachable": "it cannot be opened or reached; check the path, or the server and its credentials",
    "newer": "a newer version of twusage has written it; upgrade twusage",
    "failed": "the database reported an error",
}
# By the primary result codes of https://sqlite.org/rescode.html.
_SQLITE_KINDS = {5: "locked", 6: "locked", 8: "read-only", 11: "corrupt", 13: "full", 26: "not-a-history"}
_SQLITE_CANTOPEN = 14
# By the beginnings of https://www.postgresql.org/docs/current/errcodes-appendix.html; the first that fits.
_POSTGRESQL_KINDS = {
    "55P03": "locked",
    "40": "locked",
    "53300": "unreachable",
    "53": "full",
    "XX": "corrupt",
    "25006": "read-only",
    "42501": "read-only",
    "42P07": "not-a-history",
    "08": "unreachable",
    "28": "unreachable",
    "3D": "unreachable",
    "57P": "unreachable",
}


def sqlite_kind(error: BaseException | None, *, readable: bool) -> tuple[str, str]:
    """Return the kind of a ``sqlite3`` error, and its code's name. Its message is not used: it may quote anything."""
    number = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind = _SQLITE_KINDS.get(number, "failed")
    if number == _SQLITE_CANTOPEN:
        # SQLite cannot create its write-ahead log in a directory that is read-only.
        kind = "read-only" if readable else "unreachable"
    return kind, getattr(error, "sqlite_errorname", type(error).__name__)


def postgresql_kind(error: BaseException | None) -> tuple[str, str]:
    """Return the kind of a ``psycopg`` error, and its SQLSTATE. libpq has none if it could not connect."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        return "unreachable", type(error).__name__
    return next((kind for code, kind in _POSTGRESQL_KINDS.items() if state.startswith(code)), "failed"), state
