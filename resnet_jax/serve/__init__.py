"""Networks behind an HTTP API."""
