"""A web app that lets containers work: http://localhost:8000/?below=2000000."""

import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from shop import count_primes

PART, MOST = 20_000, 10_000_000


class Pages(BaseHTTPRequestHandler):
    """One page, and one for the health check."""

    def do_GET(self) -> None:  # http.server's name
        """Count primes in containers, or tell that this runs."""
        where = urlsplit(self.path)
        if where.path == "/health":
            self.answer("on\n")
            return
        asked = parse_qs(where.query).get("below", ["100000"])[0]
        if where.path != "/":
            self.send_error(404)
            return
        if not asked.isdecimal() or not (below := int(asked[:9])) <= MOST:
            self.send_error(400, f"below must be a whole number, at most {MOST}")
            return
        firsts = range(0, below, PART)
        found = sum(count_primes.starmap((first, min(first + PART, below)) for first in firsts))
        self.answer(f"There are {found} primes below {below}.\n")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log what people ask for, and no health checks."""
        if self.path != "/health":
            super().log_request(code, size)

    def answer(self, text: str) -> None:
        """Send a page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    # The first process of a container ignores a signal that it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ThreadingHTTPServer(("0.0.0.0", 8000), Pages).serve_forever()
