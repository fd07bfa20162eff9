#!/usr/bin/env python3
"""Proves that the server's WebSocket layer keeps RFC 6455 and RFC 7692: every case of the Autobahn
testsuite's groups 1-7, 9 and 10 against /echo, and those of the compression groups 12 and 13 that
do not take minutes; judged by judge.py.

    autobahn.py WSTEST OUT [CASE...]    WSTEST: the suite's program; OUT: a directory for its report;
                                        CASE: only these (as "6.4.*"), for a look, never a pass
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import judge

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "sdk"))
from server import start_server  # noqa: E402

# In the suite's patterns "13.*.1" stands for all that begin so, 13.1.10 with them: hence the exclusions.
GROUPS = [f"{group}.*" for group in judge.EXPECTED if group != "13"] + [f"13.*.{size}" for size in range(1, 5)]
# Messages of 16 KiB and more, a thousand for each case. 12.*.12, in fragments, stays.
EXCLUDED = [f"12.*.{size}" for size in (*range(7, 11), *range(13, 19))] + [f"13.*.{size}" for size in range(10, 19)]
# A full run takes one or two minutes; a server that fails many cases can take 10 s for each of them.
LIMIT_SECONDS = 480


def run_cases(wstest, out, url, cases, limit=LIMIT_SECONDS):
    """Runs the suite against `url`; its report's index, empty when there is none."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    spec = {
        "outdir": str(out / "report"),
        "options": {"failByDrop": False},
        "servers": [{"agent": "gannet", "url": url, "options": {"version": 18}}],
        "cases": cases,
        "exclude-cases": EXCLUDED,
        "exclude-agent-cases": {},
    }
    (out / "spec.json").write_text(json.dumps(spec))
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    suite = subprocess.Popen(
        [wstest, "-m", "fuzzingclient", "-s", str(out / "spec.json")],
        stdin=subprocess.DEVNULL, cwd=out, env=environment,
    )  # fmt: skip
    try:
        suite.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"autobahn: stopped after {limit} s", file=sys.stderr)
    finally:
        if suite.poll() is None:
            suite.kill()
            suite.wait()
    index = out / "report/index.json"
    return json.loads(index.read_text()) if index.exists() else {}


def main(wstest, out, *cases):
    # Told to end: leave through the `finally`s, so that neither the suite nor the server stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    judge.self_test()
    out = pathlib.Path(out).resolve()
    with start_server("--echo.enabled", "--websocket.compression") as server:
        index = run_cases(wstest, out, f"{server.ws}/echo", list(cases) or GROUPS)
    return judge.verdict(*judge.judge(index))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
