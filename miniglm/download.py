"""Downloads that resume, are tried again and are checked: of addresses, and of packages by pip."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from miniglm.errors import UserError, refuse
from miniglm.proxy import proxy_of
from miniglm.retry import FailedTry, retry_policy, with_retries

AGAIN = {408, 416, 429, *range(500, 600)}  # HTTP statuses after which another try may help
FIRST_WAIT, LONGEST_WAIT = 1, 20  # seconds between two tries, see retry_policy


def pip_download(requirement, digest, folder, *options) -> Path:
    """The path of a package file that pip fetches into `folder`, and refuses unless it has the sha256 `digest`."""
    pinned, target = Path(folder, "requirements.txt"), Path(folder, "package")
    pinned.write_text(f"{requirement} --hash=sha256:{digest}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(target), *options]
    command += ["--require-hashes", "--requirement", str(pinned)]
    print(f"fetching {requirement} from the package index")
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    problem = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    todo = check_proxy("https://pypi.org") or "check the network and try again"
    refuse(done.returncode != 0, f"pip could not fetch {requirement} ({problem})", todo)
    return next(target.iterdir())


def check_sha256(content, expected, name):
    """Raise UserError where the bytes have another sha256 than `expected`, in lower-case hexadecimal."""
    found = hashlib.sha256(content).hexdigest()
    refuse(found != expected, f"{name} is not the file that is known (sha256 {found})", "fetch it again")


def download(url, folder: Path, retries, timeout, headers: dict[str, str] | None = None) -> bytes:
    """The bytes at `url`, see download_file; what has arrived is kept in `folder`."""
    partial = download_file(url, folder / "download", retries, timeout, headers=headers)
    content = partial.read_bytes()
    partial.unlink()
    return content


def download_file(
    url, target: Path, retries, timeout, otherwise="; or use --from", headers: dict[str, str] | None = None
) -> Path:
    """Fetch what is at `url`; where it lies now, whole: beside `target`, which is the caller's to write.

    Goes on where an earlier try stopped, as long as the server still has the same file: what has arrived is kept, also
    for a later call. retries: tries at most. timeout: seconds without a byte after which one has failed. otherwise:
    what else can be done where all have failed. headers: sent along. Raises UserError.
    """
    partial, tag = (target.with_name(f"{target.name}.{kind}") for kind in ("partial", "etag"))
    for path in (partial, tag):
        refuse(path.is_symlink(), f"{path} is a link to elsewhere", "delete it")

    def attempt():
        try:
            fetch_rest(url, partial, tag, timeout, headers or {})
        except requests.RequestException as error:
            if isinstance(error, ValueError):  # the address or the proxy's is none, or of no known kind
                todo = check_proxy(url) or "check the address"
                raise UserError(f"could not download {url} ({type(error).__name__})", todo) from error
            problem = type(error).__name__ if error.response is None else f"HTTP status {error.response.status_code}"
            raise FailedTry(problem, error.response) from error
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise FailedTry(type(error).__name__) from error

    def tell(failure):
        arrived = partial.stat().st_size if partial.exists() else 0
        tqdm.write(f"download of {url}: {failure}, {arrived:,} bytes so far")

    try:
        with_retries(attempt, retry_policy(retries - 1, AGAIN, FIRST_WAIT, LONGEST_WAIT), tell)
    except FailedTry as failure:
        todo = check_proxy(url) or f"try again later, it goes on where it was{otherwise}"
        raise UserError(f"could not download {url} ({failure})", todo) from failure
    tag.unlink(missing_ok=True)
    return partial


def check_proxy(url) -> str:
    """What to do about the proxy between here and `url` where something failed; empty where there is none."""
    proxy = proxy_of(url)
    return f"check the proxy {proxy}, or take it out of the environment, and try again" if proxy else ""


def fetch_rest(url, partial: Path, tag: Path, timeout, headers: dict[str, str]):
    """Append to the file `partial` what is missing of `url`.

    tag: the file for the ETag, by which the server sees whether the text is still the same. Raises FailedTry where the
    length is not what the server announced, UserError for an unsafe address, and what requests raises.
    """
    have = partial.stat().st_size if partial.exists() and tag.exists() else 0
    headers = headers | {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8")}
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == 416:  # the partial file does not fit what is there now
            partial.unlink(missing_ok=True)
        response.raise_for_status()
        addresses = [each.url for each in (*response.history, response)]
        refuse(
            url.startswith("https://") and any(not address.startswith("https://") for address in addresses),
            f"{url} leads on to an address without https, where anybody on the way could have changed the text",
            "look for an https address of the text",
        )
        if response.status_code != 206:  # the server sends all of it, not the rest
            have = 0
        if response.headers.get("ETag", "").startswith('"'):  # a strong one: the bytes are the same
            tag.write_text(response.headers["ETag"], encoding="utf-8")
        else:
            tag.unlink(missing_ok=True)
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if re.fullmatch("[0-9]{1,15}", length) else None
        with (
            open(partial, "ab" if have else "wb") as file,
            tqdm(desc=url.rsplit("/", 1)[-1], total=total, initial=have, unit="B", unit_scale=True) as progress,
        ):
            for chunk in response.iter_content(1 << 16):
                file.write(chunk)
                progress.update(len(chunk))
    if total is not None and partial.stat().st_size != total:
        raise FailedTry("it ended early")
