#!/usr/bin/env python3
"""Judges an Autobahn report: passes only if every case of the groups asked for is good.

    judge.py INDEX.JSON     exit 0: all good; 1: not; prints what is not and the count
    judge.py --self-test    proves on made-up reports that the judge can fail

wstest itself exits 0 whatever happened, even when the server was down. Good means OK or
INFORMATIONAL in both `behavior` and `behaviorClose`, and no group with fewer cases than it has.
"""

import collections
import json
import sys

GOOD = {"OK", "INFORMATIONAL"}
# What Autobahn 25.10.1 has: framing, pings, reserved bits, opcodes, fragments, UTF-8, close, limits, sizes of writes;
# and what autobahn.py asks for of compression.
EXPECTED = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1, "12": 40, "13": 28}


def judge(index, expected=EXPECTED):
    """(good cases, bad or missing cases, lines that say what is wrong)."""
    if len(index) != 1:
        return 0, sum(expected.values()), [f"{len(index)} agents in the report instead of one"]
    (cases,) = index.values()
    good, bad, lines = 0, 0, []
    for name in sorted(cases, key=lambda case: [int(part) for part in case.split(".")]):
        behavior = cases[name].get("behavior", "missing")
        close = cases[name].get("behaviorClose", "missing")
        if behavior in GOOD and close in GOOD:
            good += 1
        else:
            bad += 1
            lines.append(f"case {name}: behavior {behavior}, close {close}")
    count = collections.Counter(name.split(".")[0] for name in cases)
    for group, wanted in expected.items():
        if count[group] < wanted:
            bad += wanted - count[group]
            lines.append(f"group {group}: {count[group]} cases instead of {wanted}")
    return good, bad, lines


def verdict(good, bad, lines):
    """Prints it; the exit status."""
    for line in lines:
        print(line)
    print(f"autobahn: {good} passed, {bad} failed", flush=True)
    return 1 if bad else 0


def self_test():
    few = {"1": 2, "10": 1}

    def report(**changes):
        cases = {name: {"behavior": "OK", "behaviorClose": "OK"} for name in ("1.1.1", "1.1.2", "10.1.1")}
        for field, value in changes.items():
            cases["1.1.2"][field] = value
        return {"gannet": cases}

    assert judge(report(), few) == (3, 0, [])
    assert judge(report(behavior="INFORMATIONAL", behaviorClose="INFORMATIONAL"), few) == (3, 0, [])
    words = ["NON-STRICT", "FAILED", "UNCLEAN", "WRONG CODE", "UNIMPLEMENTED", "FAILED BY CLIENT", ""]
    for word in words:
        for field in ("behavior", "behaviorClose"):
            good, bad, lines = judge(report(**{field: word}), few)
            assert (good, bad) == (2, 1) and "1.1.2" in lines[0], (word, field)
    no_close = report()
    del no_close["gannet"]["1.1.2"]["behaviorClose"]
    assert judge(no_close, few)[:2] == (2, 1)
    missing = report()
    del missing["gannet"]["10.1.1"]
    assert judge(missing, few) == (2, 1, ["group 10: 0 cases instead of 1"])
    assert judge({"gannet": {}}, few)[:2] == (0, 3)
    assert judge({}, few)[:2] == (0, 3), "no agent: the server was down"
    assert judge({"a": {}, "b": {}}, few)[:2] == (0, 3)
    assert sum(EXPECTED.values()) == 369
    print("judge: its own test is good")


def main(arguments):
    if arguments == ["--self-test"]:
        self_test()
        return 0
    if len(arguments) != 1:
        print(__doc__)
        return 2
    with open(arguments[0]) as report:
        return verdict(*judge(json.load(report)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
