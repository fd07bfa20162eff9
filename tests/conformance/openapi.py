#!/usr/bin/env python3
"""Proves that the HTTP API answers as its description at /openapi.json says: schemathesis makes calls
of all kinds, good and bad, from the description and holds the answers against it. Once with errors in
the body and once with errors as HTTP statuses, where it also sees that what is bad is refused.

    openapi.py SCHEMATHESIS
"""

import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "sdk"))
from server import API_KEY, start_server  # noqa: E402

CHANNELS = (
    "--channel.without_namespace.history_size", "5",
    "--channel.without_namespace.history_ttl", "60s",
    "--channel.without_namespace.presence",
)  # fmt: skip
ALWAYS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method,allow_header_conformance,ignored_auth"
)
SEED = "20261121"


def run(schemathesis, checks, server_options=(), options=()):
    """One server, one run; whether nothing was found."""
    with start_server(*CHANNELS, *server_options) as server, tempfile.TemporaryDirectory() as here:
        command = [
            schemathesis, "run", f"{server.http}/openapi.json", "--url", f"{server.http}/api",
            "--header", f"X-API-Key: {API_KEY}", "--checks", checks, "--seed", SEED,
            "--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--workers", "2",
            "--request-timeout", "10", "--suppress-health-check", "all", "--warnings", "off",
            "--no-color", "--continue-on-failure", *options,
        ]  # fmt: skip
        # Loopback never goes through a proxy.
        environment = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}
        ended = subprocess.run(command, cwd=here, env=environment, timeout=140, stdin=subprocess.DEVNULL)
        return ended.returncode == 0


def main(schemathesis):
    good = [
        run(schemathesis, ALWAYS),
        # A batch tells of what is bad within its replies.
        run(
            schemathesis,
            f"{ALWAYS},negative_data_rejection",
            ("--http_api.error_mode", "transport"),
            ("--exclude-path", "/batch"),
        ),
    ]
    print(f"openapi: {good.count(True)} passed, {good.count(False)} failed")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
