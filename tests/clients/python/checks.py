"""What the scripts share: where the hive is, what its model says, and checks that fail loudly.

The model is an engine of the tests (tests/it/support/conversing.rs): it says how many messages it got and what
the last one was, calls each tool once, and fills in schemas with the last word that it was told.
"""

import asyncio
import inspect
import os
import traceback

# The address of a hive without a token, and of one that asks for TOKEN.
URL = os.environ["RBEE_URL"]
GUARDED_URL = os.environ["RBEE_GUARDED_URL"]
TOKEN = os.environ["RBEE_TOKEN"]
MODEL = os.environ["RBEE_MODEL"]

# A picture of one pixel.
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
QUESTION = "What is the weather in Paris?"

_checks = []


def check(function):
    """Registers a check, which runs in the order of the file."""
    _checks.append(function)
    return function


def said(text, messages=1):
    """What the model answers to the last of so many messages."""
    return f"{messages} messages, the last: {text}"


def equal(found, expected):
    assert found == expected, f"{found!r} is not {expected!r}"


def raises(kind, action):
    """The exception of `action`, which must be of this class."""
    try:
        result = action()
    except Exception as error:  # noqa: BLE001
        assert isinstance(error, kind), f"{type(error).__mro__} instead of {kind}: {error}"
        return error
    raise AssertionError(f"{kind.__name__} was expected, and the answer was {result!r}")


def main():
    """Runs all checks, prints a line for each, and fails if one has failed."""
    failed = []
    for function in _checks:
        try:
            result = function()
            if inspect.iscoroutine(result):
                asyncio.run(result)
            print(f"ok {function.__name__}", flush=True)
        except Exception:  # noqa: BLE001
            failed.append(function.__name__)
            print(f"FAILED {function.__name__}\n{traceback.format_exc()}", flush=True)
    assert _checks, "there is no check"
    if failed:
        raise SystemExit(f"{len(failed)} of {len(_checks)} checks failed: {', '.join(failed)}")
