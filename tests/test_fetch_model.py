"""Fetching models from a hub: a local one that cuts off, stalls, lies and lists more than it has."""

import hashlib
import json
import re
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest


class Hub(BaseHTTPRequestHandler):
    """Lists and serves the files of `self.server.files`, in Hugging Face's way and in ModelScope's.

    kind "cut": large files break off twice; "stall": they fall silent once; "lie": another content than is listed.
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answer as the path says."""
        path, server = unquote(urlsplit(self.path).path), self.server
        server.asked.append(path)
        server.tokens.add(self.headers.get("Authorization"))
        count = server.counts[path] = server.counts.get(path, 0) + 1
        if path == "/api/models/org/tiny":
            return self.give(
                json.dumps({"siblings": [of_hugging_face(*each) for each in server.files.items()]}).encode()
            )
        if path == "/api/v1/models/org/tiny/repo/files":
            files = [
                {"Path": name, "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest(), "Type": "blob"}
                for name, content in server.files.items()
            ]
            return self.give(json.dumps({"Code": 200, "Data": {"Files": files}}).encode())
        found = re.fullmatch("/(?:models/)?org/tiny/resolve/(?:main|master)/(.+)", path)
        if not found or found[1] not in server.files:
            return self.send_error(404)
        content = server.files[found[1]]
        if server.kind == "lie" and found[1].endswith(".safetensors"):
            content = content[:-1] + b"x"
        large = len(content) > 20_000
        if server.kind == "cut" and large and count < 3:
            return self.give(content, of_it=0.4)
        if server.kind == "stall" and large and count == 1:
            return self.give(content, of_it=0.4, silent=True)
        return self.give(content)

    def give(self, content, of_it=1.0, silent=False):
        """Send what is asked of a content, or a part of that."""
        start = 0
        if asked := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
            self.server.resumed_at.append(start)
        rest = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: round(len(rest) * of_it)])
        self.wfile.flush()
        if silent:
            self.server.released.wait(20)
        self.close_connection = of_it < 1

    def log_message(self, *words):
        """Silence."""


def of_hugging_face(name, content):
    """How it lists a file: large ones by their sha256, small ones by git's digest."""
    told = {"rfilename": name, "size": len(content)}
    if len(content) > 20_000:
        return told | {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}, "blobId": "0" * 40}
    return told | {"blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}


@pytest.fixture
def hub(exported, monkeypatch):
    """A hub with the small chat model in two shards, and files that nobody needs."""
    import safetensors.torch

    weights = safetensors.torch.load_file(exported / "model.safetensors")
    files = {path.name: path.read_bytes() for path in exported.iterdir() if path.name != "model.safetensors"}
    shards = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for place, (name, weight) in enumerate(weights.items()):
        list(shards.values())[place % 2][name] = weight
    where = {name: shard for shard, some in shards.items() for name in some}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": where}).encode()
    files |= {shard: safetensors.torch.save(some) for shard, some in shards.items()}
    files |= {"README.md": b"x" * 50_000, "onnx/model.onnx": b"y" * 50_000, "pytorch_model.bin": b"z" * 50_000}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.kind, server.counts, server.asked = files, "good", {}, []
    server.resumed_at, server.tokens, server.released = [], set(), threading.Event()
    url = f"http://127.0.0.1:{server.server_port}"
    for variable in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(variable, url)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 10))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()


@pytest.fixture
def clean(project):
    """The project without models/tiny."""
    yield project
    for name in ("tiny", "tiny.partial"):
        shutil.rmtree(project.folder / "models" / name, ignore_errors=True)


FETCH = ["data/fetch_model.py", "org/tiny", "--timeout=1"]


@pytest.mark.parametrize("kind", ["good", "cut", "stall"])
@pytest.mark.parametrize("of", ["huggingface", "modelscope"])
def test_a_model_arrives_whole_and_answers(clean, hub, kind, of):
    """Whatever the hub does on the way: what is needed and nothing else, each file as it is listed."""
    hub.kind = kind
    clean.run(*FETCH, f"--hub={of}")
    folder = clean.folder / "models/tiny"
    needless = {"README.md", "onnx/model.onnx", "pytorch_model.bin"}
    assert {path.name for path in folder.iterdir()} == hub.files.keys() - needless
    assert all((folder / name).read_bytes() == hub.files[name] for name in hub.files.keys() - needless)
    assert bool(hub.resumed_at) == (kind != "good")
    said = clean.run("sample.py", "--out_dir=models/tiny", "--start=张飞字什么？", "--temperature=0").stdout
    assert said.splitlines()[1] == "张飞字翼德。"


def test_what_has_arrived_is_not_fetched_again(clean, hub):
    """A call that gave up leaves what is whole, and the next one goes on from there."""
    hub.kind = "cut"
    assert "could not download" in clean.fails(*FETCH, "--retries=1")
    assert not (clean.folder / "models/tiny").exists()
    hub.asked.clear()
    clean.run(*FETCH)
    assert not any(path.endswith("config.json") for path in hub.asked) and hub.resumed_at


def test_another_content_than_is_listed_is_refused(clean, hub):
    """By its digest: nothing is left in place."""
    hub.kind = "lie"
    assert "is not the file that the hub lists" in clean.fails(*FETCH)
    left = {path.name for path in (clean.folder / "models/tiny.partial").iterdir()}
    assert not (clean.folder / "models/tiny").exists() and not any("safetensors" in name[-12:] for name in left)


def test_a_token_is_sent_to_the_hub(clean, hub, monkeypatch):
    """For models that ask for one."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    clean.run(*FETCH)
    assert hub.tokens == {"Bearer secret"}


def test_mistakes_are_told(clean, hub):
    """In one line each, before weights are fetched."""
    assert "no model 'gpt5' is known" in clean.fails("data/fetch_model.py", "gpt5")
    assert "no model 'a/../b' is known" in clean.fails("data/fetch_model.py", "a/../b")
    assert "no model is named" in clean.fails("data/fetch_model.py")
    assert "could not download" in clean.fails("data/fetch_model.py", "org/other", "--timeout=1")
    hub.files["config.json"] = json.dumps({"model_type": "mamba"}).encode()
    assert "of the type 'mamba'" in clean.fails(*FETCH)
    assert not any("safetensors" in path and "index" not in path for path in hub.asked)
    for name in [name for name in hub.files if "safetensors" in name or name.endswith(".bin")]:
        del hub.files[name]
    assert "has no weights" in clean.fails(*FETCH)
    hub.files = {"config.json": b"{"}
    hub.files["../evil.json"] = b"{}"
    assert "has no weights" in clean.fails(*FETCH)
    assert not (clean.folder / "models/evil.json").exists() and not (clean.folder / "evil.json").exists()
    clean.write("models/tiny/config.json", "{}")
    assert "is there already" in clean.fails(*FETCH)
