"""Hugging Face folders: read the weights that others trained, write ours for transformers.

Such a folder holds config.json, model.safetensors or pytorch_model.bin (or several, with an index) and the tokenizer's
files. Nothing in it is executed and nothing is fetched. Whose names and shapes are known stands in families.py.
"""

import functools
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from miniglm.checkpoint import Checkpoint, refuse_bombs, unpickled
from miniglm.conversion import Joined, theirs_from
from miniglm.errors import UserError, refuse
from miniglm.families import shape_of
from miniglm.files import is_plain_name, new_folder, read_json, write_json, write_whole
from miniglm.foreign import CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE, Foreign
from miniglm.template import chat_template
from miniglm.tokenizer import FAST_FILE, Tokenizer
from miniglm.vocabulary import AnyTokenizer, fingerprint, load_tokenizer
from miniglm.wordpiece import WordPiece

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, "pytorch_model.bin")  # what holds all weights; several of them have an index
INDEX = ".index.json"
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
LARGE = 1 << 22  # bytes of a tensor
SAFETENSORS_DTYPES = {name.upper(): dtype for name, dtype in DTYPES.items()} | {"F64": torch.float64}


def is_hf(folder) -> bool:
    """Whether a directory is a Hugging Face folder: its config.json tells of a model type."""
    path = Path(folder, CONFIG)
    return path.is_file() and "model_type" in read_json(path, "copy the folder again")


def read_hf(folder) -> tuple[Checkpoint, AnyTokenizer]:
    """The model, of which each weight is read when it is asked for, and the tokenizer of a Hugging Face folder.

    Raises UserError.
    """
    family, shape = shape_of(read_json(Path(folder, CONFIG), "give a Hugging Face folder"), folder)
    stored = {}
    for path in weight_files(folder):
        stored |= tensors_in(path)
    weights = Joined(stored, family, shape, folder)
    tokenizer = load_tokenizer(folder)
    refuse(
        tokenizer.vocab_size > shape.vocab_size,
        f"the tokenizer in {folder} has {tokenizer.vocab_size:,} ids, the model {shape.vocab_size:,}",
        "copy the folder again",
    )
    template = Path(folder, TEMPLATE_FILE)
    written = template.read_text(encoding="utf-8", errors="replace") if template.is_file() else ""
    chat = bool(tokenizer.template) or written == chat_template(tokenizer.end)
    return Checkpoint(weights, vars(shape), {}, chat, fingerprint(tokenizer), family=family.title), tokenizer


class TensorFile:
    """A file of tensors, safetensors or torch's."""

    def __init__(self, path: Path):
        self.path = path

    @functools.cached_property
    def tensors(self) -> Callable[[str], torch.Tensor]:
        """What gives the tensor of a name; it stays in the file, which is mapped into memory."""
        if self.path.suffix == ".bin":
            return unpickled(self.path).__getitem__
        return safetensors.safe_open(self.path, framework="pt").__enter__().get_tensor


@dataclass(frozen=True)
class InFile:
    """A tensor in a file."""

    file: TensorFile
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def mapped(self) -> torch.Tensor:
        """The tensor as it lies in the file. Raises UserError."""
        with told_if_damaged(self.file.path):
            return self.file.tensors(self.name)

    def read_into(self, target: torch.Tensor):
        """Copy the tensor to `target`, a large one from the file opened anew, so that it leaves memory at the end."""
        file = self.file if target.nbytes < LARGE else TensorFile(self.file.path)
        with told_if_damaged(file.path):
            target.copy_(file.tensors(self.name))


@contextmanager
def told_if_damaged(path):
    """Raise UserError where the block meets a file that is damaged."""
    try:
        yield
    except Exception as error:  # safetensors' own kind, and torch's
        if isinstance(error, MemoryError):
            raise
        raise UserError(f"{path} is cut off or damaged", "copy the folder again") from error


def tensors_in(path: Path) -> dict[str, InFile]:
    """The tensors of a file, safetensors or torch's, none of which is read yet. Raises UserError."""
    file = TensorFile(path)
    with told_if_damaged(path):
        if path.suffix == ".bin":
            refuse_bombs(path)
            content = unpickled(path)
            if sum(each.nbytes for each in content.values()) > 2 * path.stat().st_size:
                raise ValueError("tensors that claim more than the file holds")
            return {name: InFile(file, name, tuple(each.shape), each.dtype) for name, each in content.items()}
        with safetensors.safe_open(path, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118, it is no dict
            return {
                name: InFile(file, name, tuple(each.get_shape()), SAFETENSORS_DTYPES.get(each.get_dtype(), torch.uint8))
                for name, each in slices.items()
            }


def weight_files(folder) -> list[Path]:
    """The files of a folder that hold its weights, safetensors where there are some. Raises UserError."""
    for single in (Path(folder, name) for name in FILES):
        index = single.with_name(single.name + INDEX)
        if single.is_file():
            return [single]
        if not index.is_file():
            continue
        names = read_json(index, "copy the folder again").get("weight_map")
        files = set(names.values()) if isinstance(names, dict) else set()
        broken = not files or not all(isinstance(name, str) and is_plain_name(name) for name in files)
        refuse(broken, f"{index} is broken", "copy the folder again")
        paths = [Path(folder, name) for name in sorted(files)]
        missing = [path.name for path in paths if not path.is_file()]
        refuse(missing, f"{folder} lacks {', '.join(missing[:3])}", "copy the folder again")
        return paths
    raise UserError(f"{folder} holds no {' or '.join(FILES)}", "copy the folder again")


def write_hf(path, model, tokenizer: AnyTokenizer, chat: bool, dtype: str, family: str = ""):
    """Write model and tokenizer as a folder that AutoModelForCausalLM and AutoTokenizer open.

    dtype: of the weights, f32, f16 or bf16. family: the title of the one that the model came from. Raises UserError.
    """
    config, weights = theirs_from(model, family, DTYPES[dtype])
    ends = list(tokenizer.end_ids)
    ids = {
        "bos_token_id": tokenizer.start_ids[0] if tokenizer.start_ids else tokenizer.end_id,
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "pad_token_id": tokenizer.end_id,
    }
    with new_folder(path) as folder:
        try:
            save_file(weights, folder / WEIGHTS, {"format": "pt"})
        except safetensors.SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}", "free some space or choose another place") from error
        write_json(folder / CONFIG, config | ids)
        if isinstance(tokenizer, Foreign):
            tokenizer.save(folder)
        else:
            save_fast(folder, tokenizer, model.config.block_size)
        write_json(folder / GENERATION_FILE, ids)
        if chat and not tokenizer.template:  # a template of others is among its files
            with write_whole(folder / TEMPLATE_FILE) as file:
                file.write(chat_template(tokenizer.end))


def save_fast(folder: Path, tokenizer: Tokenizer | WordPiece, context: int):
    """Write a tokenizer of ours as AutoTokenizer opens it. context: of the model, in tokens."""
    with write_whole(folder / FAST_FILE) as file:
        file.write(tokenizer.to_fast().to_str(pretty=True))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context}
    about |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), tokenizer.end)
    write_json(folder / CONFIG_FILE, about | {"clean_up_tokenization_spaces": False})
