"""Asking a server again where that may help: one policy for downloads and for a language model's answers.

It is urllib3's Retry, driven from here instead of being mounted on a session, because a try is more than one request
repeated: a download asks for what is still missing of it, and what is sent to a language model counts against a budget.
"""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TypeVar

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

Result = TypeVar("Result")


class FailedTry(Exception):
    """A try that failed where another one may succeed. Its text is the problem."""

    def __init__(self, problem: str, response: requests.Response | None = None):
        """response: what the server answered, where it did."""
        super().__init__(problem)
        self.response = response


def retry_policy(retries: int, statuses: Collection[int], backoff: float, longest: int) -> Retry:
    """How often a server is asked again, and when.

    retries: tries after the first. statuses: the HTTP statuses after which another try may help. backoff: seconds; the
    second try follows at once, the third after twice as long, each further one after twice the wait before it.
    longest: seconds of a wait at most, also where the server asks for more in Retry-After.
    """
    return Retry(
        total=retries,
        allowed_methods=None,  # whatever is asked again, a POST too
        status_forcelist=statuses,
        backoff_factor=backoff,
        backoff_max=longest,
        retry_after_max=longest,
    )


def with_retries(
    attempt: Callable[[], Result],
    policy: Retry,
    tell: Callable[[FailedTry], object] = lambda failure: None,
    sleep: Callable[[float], object] = time.sleep,
) -> Result:
    """What `attempt()` returns, called again after each FailedTry while `policy` allows it.

    tell: is called with each FailedTry but those whose HTTP status the policy gives no other chance. sleep: waits for
    some seconds. Raises the last FailedTry, and whatever else `attempt` raises.
    """
    while True:
        try:
            return attempt()
        except FailedTry as failure:
            response = failure.response
            if response is not None and not policy.is_retry("GET", response.status_code):
                raise
            tell(failure)
            if not policy.total:
                raise
            policy = policy.increment(error=failure)
            sleep(seconds_to_wait(policy, response))


def seconds_to_wait(policy: Retry, response: requests.Response | None) -> float:
    """How long to wait before the next try: as long as the server asks for, else as the policy has it."""
    if response is not None:
        with suppress(InvalidHeader):  # neither a number nor a date
            asked = policy.get_retry_after(response.raw)
            if asked is not None:
                return asked
    return policy.get_backoff_time()
