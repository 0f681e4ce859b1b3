"""Proxies, which many readers have in their environment: where none is used, and how one that fails is named."""

import os
import re

from requests.utils import get_environ_proxies, select_proxy

LOCAL = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1", "0.0.0.0")  # not every library reads a whole network of them


def bypass_proxies(*hosts: str):
    """From now on this process, and those that it starts, reach `hosts` without a proxy; "*" stands for all."""
    names = ("no_proxy", "NO_PROXY")  # which of the two counts differs from library to library
    so_far = filter(None, ",".join(os.environ.get(name, "") for name in names).split(","))
    os.environ.update(dict.fromkeys(names, ",".join(dict.fromkeys([*so_far, *hosts]))))


def proxy_of(url) -> str:
    """Which proxy stands between here and `url`, and what sets it, for a message; empty where there is none."""
    proxy = select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return ""
    names = [name for name in os.environ if name.lower().endswith("_proxy") and os.environ[name] == proxy]
    address = re.sub(r"^(\w+://)?.*@", r"\1", proxy)  # without a name and password
    return f"{address} of {', '.join(names) or 'the system'}"
