"""Hugging Face folders: read the weights that others trained, write ours for transformers.

Such a folder holds config.json, model.safetensors (or several, with an index) and the tokenizer's files. Nothing in it
is executed and nothing is fetched. Whose names and shapes are known stands in families.py.
"""

from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

from miniglm.checkpoint import Checkpoint
from miniglm.conversation import chat_template
from miniglm.errors import UserError, refuse
from miniglm.families import ours_from, shape_of, theirs_from
from miniglm.files import is_plain_name, new_folder, read_json, write_json, write_whole
from miniglm.tokenizer import FAST_FILE
from miniglm.vocabulary import AnyTokenizer, fingerprint, load_tokenizer

CONFIG, TEMPLATE = "config.json", "chat_template.jinja"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def is_hf(folder) -> bool:
    """Whether a directory is a Hugging Face folder: its config.json tells of a model type."""
    path = Path(folder, CONFIG)
    return path.is_file() and "model_type" in read_json(path, "copy the folder again")


def read_hf(folder) -> tuple[Checkpoint, AnyTokenizer]:
    """The model, in float32, and the tokenizer of a Hugging Face folder. Raises UserError."""
    family, shape = shape_of(read_json(Path(folder, CONFIG), "give a Hugging Face folder"), folder)
    tensors = {}
    for path in weight_files(folder):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        except Exception as error:  # safetensors' own kind, and torch's
            raise UserError(f"{path} is cut off or damaged", "copy the folder again") from error
    weights = ours_from(tensors, family, shape, folder)
    tokenizer = load_tokenizer(folder)
    refuse(
        tokenizer.vocab_size > shape.vocab_size,
        f"the tokenizer in {folder} has {tokenizer.vocab_size:,} ids, the model {shape.vocab_size:,}",
        "copy the folder again",
    )
    template = Path(folder, TEMPLATE)
    written = template.read_text(encoding="utf-8", errors="replace") if template.is_file() else ""
    chat = written == chat_template(tokenizer.end)
    return Checkpoint(weights, vars(shape), {}, chat, fingerprint(tokenizer)), tokenizer


def weight_files(folder) -> list[Path]:
    """The safetensors files of a folder. Raises UserError."""
    single, index = Path(folder, WEIGHTS), Path(folder, INDEX)
    if single.is_file() or not index.is_file():
        others = ", ".join(sorted(path.name for path in Path(folder).glob("*.bin"))[:3])
        there = f"{folder} holds no {WEIGHTS}" + (f", only {others}" if others else "")
        refuse(not single.is_file(), there, "copy the folder again, or save the model as safetensors")
        return [single]
    names = read_json(index, "copy the folder again").get("weight_map")
    files = set(names.values()) if isinstance(names, dict) else set()
    broken = not files or not all(isinstance(name, str) and is_plain_name(name) for name in files)
    refuse(broken, f"{index} is broken", "copy the folder again")
    paths = [Path(folder, name) for name in sorted(files)]
    missing = [path.name for path in paths if not path.is_file()]
    refuse(missing, f"{folder} lacks {', '.join(missing[:3])}", "copy the folder again")
    return paths


def write_hf(path, model, tokenizer: AnyTokenizer, chat: bool, dtype: str):
    """Write model and tokenizer as a folder that AutoModelForCausalLM and AutoTokenizer open.

    dtype: of the weights, f32, f16 or bf16. Raises UserError.
    """
    config, weights = theirs_from(model, tokenizer.end_id, DTYPES[dtype])
    end_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.end_id)
    with new_folder(path) as folder:
        try:
            save_file(weights, folder / WEIGHTS, {"format": "pt"})
        except safetensors.SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}", "free some space or choose another place") from error
        write_json(folder / CONFIG, config)
        write_json(folder / "generation_config.json", end_ids)
        with write_whole(folder / FAST_FILE) as file:
            file.write(tokenizer.to_fast().to_str(pretty=True))
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.config.block_size}
        about |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), tokenizer.end)
        write_json(folder / "tokenizer_config.json", about | {"clean_up_tokenization_spaces": False})
        if chat:
            with write_whole(folder / TEMPLATE) as file:
                file.write(chat_template(tokenizer.end))
