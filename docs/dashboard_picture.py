"""Takes the pictures of the dashboard: ``python docs/dashboard_picture.py``, or ``nox -s pictures``.

They show the real page of ``twusage serve --demo`` at a fixed time, in Debian's Chromium. ``dashboard.txt`` has its
text: with ``--check`` only this is compared, and the exit code is 1 if the pictures are out of date.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
import urllib.request
from html.parser import HTMLParser

from cli_output import DOCS, run

STATIC = DOCS / "_static"
CHROMIUM = "/usr/bin/chromium"
SIZE = {"width": 1000, "height": 760}


class _Text(HTMLParser):
    """Collects the text of a page, without scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self._hidden += tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in {"script", "style"}

    def handle_data(self, data: str) -> None:
        if not self._hidden and (words := " ".join(data.split())):
            self.lines.append(words)


def serve() -> str:
    """Start the real command in a thread, and return its page's address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    threading.Thread(target=run, args=(f"serve --demo --port {port}",), daemon=True).start()
    return f"http://127.0.0.1:{port}/"


def text_of(url: str) -> str:
    """Return the text of the page, once it has the numbers."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own server
                page = response.read().decode()
        except OSError:  # not listening yet, or 503 before the first response
            time.sleep(0.05)
            continue
        text = _Text()
        text.feed(page)
        return "\n".join(text.lines) + "\n"
    raise TimeoutError(url)


def photograph(url: str) -> None:
    """Write the pictures, in both modes."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for mode in ("light", "dark"):
            page = browser.new_page(viewport=SIZE, color_scheme=mode)  # type: ignore[arg-type]
            page.goto(url)
            page.screenshot(path=STATIC / f"dashboard-{mode}.png")
        browser.close()


def main() -> int:
    """Take the pictures, or only compare the text."""
    url, path = serve(), STATIC / "dashboard.txt"
    text = text_of(url)
    if "--check" not in sys.argv:
        photograph(url)
        path.write_text(text, encoding="utf-8")
        return 0
    if path.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write("dashboard-*.png are out of date: python docs/dashboard_picture.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
