"""Report words that the language rules of CONTRIBUTING.md exclude. `nox -s lint` runs it.

It reads the docs, and the comments, docstrings and strings of the code and its tests.
"""

import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

SELF = Path(__file__).resolve()
ROOT = SELF.parent.parent
CHECKED = ("twusage", "tests", "docs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "conftest.py", "noxfile.py")
ARTICLE = "a|an|the|this|that|each|every|any|no|one|its|good|whole|last|late|first|next"
# Regular expression: what to write instead.
EXCLUDED = {
    r"whoever|nobody|somebody|anybody|everybody": "name the component: the client, the caller, a waiter",
    r"tells|told|hears|heard|says|said|knows|asks|asked": "return, raise, pass, report, notify, request",
    r"mends?|mended|mending|leash|lends?|lent|loans?|condemn\w*|bury|buried|witness|conductor": "no figures of speech",
    r"singing|victims?": "no figures of speech",
    rf"(?:{ARTICLE}) answers?": "response",
    r"(?<!window\.)spent": "used up (cap, credits), no calls left (window)",
    r"cycles? (?:that )?turns?|turns? of (?:a|the) (?:\w+ )?cycle": "a cycle resets",
    r"at once": "immediately, or: at the same time",
    r"by (?:itself|themselves)": "automatically",
    r"left out|leaves? out": "omitted, or: (default: 7)",
    r"anew": "again",
    r"(?:brings?|brought|comes?|came) back": "return",
    r"where (?:a|an|the|this|that|these|it|they|there|no|none|nothing|neither|both)": "if, when, or: in which",
    r"(?<!there )(?:is|are|was|were) no (?!longer|more|less)\w+": "negate the verb: is not",
}
PATTERNS = {re.compile(rf"\b(?:{words})\b", re.IGNORECASE): hint for words, hint in EXCLUDED.items()}


def files() -> Iterator[Path]:
    for name in CHECKED:
        path = ROOT / name
        found = [path] if path.is_file() else sorted(path.rglob("*"))
        yield from (
            each for each in found if each.suffix in {".md", ".py"} and "_build" not in each.parts and each != SELF
        )


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a page, or of the comments and strings of a module."""
    if path.suffix == ".md":
        yield from enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        return
    with path.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if tokenize.tok_name[token.type] in {"COMMENT", "STRING", "FSTRING_MIDDLE"}:
                yield from enumerate(token.string.splitlines(), token.start[0])


def reports(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    return [
        f"{name}:{number}: {match[0]!r} ({hint})"
        for number, line in prose(path)
        for pattern, hint in PATTERNS.items()
        for match in pattern.finditer(line)
    ]


if __name__ == "__main__":
    lines = [line for path in files() for line in reports(path)]
    print("\n".join(lines))
    sys.exit(bool(lines))
