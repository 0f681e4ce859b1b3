"""Weights of others' models to ours and back, by the records of families.py. It knows tensors and names, no files."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import torch

from miniglm.errors import UserError, refuse
from miniglm.families import (
    ADDING,
    BLOCK,
    EMBEDDING,
    HEAD,
    LINEAR,
    NUMBER,
    POSITIONS,
    POST_NORMS,
    QKV,
    Family,
    Names,
    config_of,
    family_of,
    is_linear,
    module_names,
    told_back,
)
from model import GLMConfig, MiniGLM, rope_frequencies

Weights = Mapping[str, torch.Tensor]


class Stored(Protocol):
    """A tensor that lies somewhere."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Its number format."""
        ...

    def mapped(self) -> torch.Tensor:
        """The tensor as it lies there; of its memory only what is looked at is taken."""
        ...

    def read_into(self, target: torch.Tensor):
        """Copy the tensor to `target`, of its shape, and keep no more of it."""
        ...


class Changed(Mapping[str, torch.Tensor]):
    """Weights of which some are computed anew whenever they are asked for, and some take the place of others."""

    def __init__(self, weights: Weights, changes: dict, new: Weights | None = None):
        """changes: {name: function of the weight}. new: weights that stand for those of their names, or beside them."""
        self.weights, self.changes, self.new = weights, changes, new or {}

    def __getitem__(self, name):
        if name in self.new:
            return self.new[name]
        weight = self.weights[name]
        return self.changes[name](weight) if name in self.changes else weight

    def __iter__(self):
        yield from self.weights
        yield from (name for name in self.new if name not in self.weights)

    def __len__(self):
        return sum(1 for _ in self)

    def __contains__(self, name):
        return name in self.weights or name in self.new


class Joined(Mapping[str, torch.Tensor]):
    """The weights of our model, out of a family's: each is read and put together when it is asked for."""

    def __init__(self, stored: Mapping[str, Stored], family: Family, shape: GLMConfig, place):
        """stored: {the family's name: where it lies}. shape: what its config.json describes.

        `place` names the folder in messages. Raises UserError where names or sizes do not fit.
        """
        self.family, self.shape, self.place = family, shape, place
        if family.prefix:
            own_head = stored.get(HEAD, stored.get(family.prefix + HEAD))
            stored = {family.prefix + name.removeprefix(family.prefix): each for name, each in stored.items()}
            stored.pop(family.prefix + HEAD, None)
            stored |= {HEAD: own_head} if own_head else {}
        buffer = re.compile("|".join(re.escape(name).replace(r"\{\}", r"\d+") for name in family.buffers))
        stored = {name: each for name, each in stored.items() if not buffer.fullmatch(name)}
        if shape.tied:
            self.refuse_another_head(stored)
        self.stored = stored
        self.sizes = self.sizes_of_ours()
        self.names = {name: self.theirs(name) for name in self.sizes}
        self.refuse_what_differs()

    def refuse_another_head(self, stored: dict[str, Stored]):
        """Take out a head that is stored beside the embedding it is tied to. Raises UserError where they differ."""
        head, embedding = (self.theirs(name)[0] for name in (HEAD, EMBEDDING))
        own = stored.pop(head, None)
        table = stored.get(embedding)
        another = own is not None and (table is None or own.shape != table.shape)
        if own is not None and table is not None and not another:
            another = not own.mapped().equal(table.mapped())
        refuse(
            another,
            f"{self.place} has an {head.removesuffix('.weight')} of its own",
            f"choose a {self.family.title} whose head is its embedding, as its config.json says",
        )

    def sizes_of_ours(self) -> dict[str, torch.Size]:
        """{name of ours: its size}, without a tied head; of so many blocks as the folder can hold, and one more."""
        first = MiniGLM.outline(replace(self.shape, n_layer=1)).state_dict()
        of_a_block = {name: each.shape for name, each in first.items() if name.startswith(BLOCK.format(0))}
        sizes = {name: each.shape for name, each in first.items() if name not in of_a_block}
        for layer in range(min(self.shape.n_layer, len(self.stored) + 1)):  # one must be missing beyond
            sizes |= {NUMBER.sub(f".{layer}.", name, count=1): size for name, size in of_a_block.items()}
        if self.shape.tied:
            del sizes[HEAD]
        return sizes

    def theirs(self, name: str) -> list[str]:
        """The family's names of the tensors that one of ours is joined from."""
        module, _, part = name.rpartition(".")
        return [f"{theirs}.{part}" for theirs in module_names(self.family.modules, module)]

    def refuse_what_differs(self):
        """Raise UserError where tensors are missing, strange or of another size than config.json tells."""
        theirs = {name for several in self.names.values() for name in several}
        missing, strange = sorted(theirs - self.stored.keys()), sorted(self.stored.keys() - theirs)
        for names, what in (
            (missing, "lacks the weights"),
            (strange, f"has weights that no {self.family.title} of its shape has:"),
        ):
            refuse(names, f"{self.place} {what} {', '.join(names)[:100]} ({len(names)})", "copy the folder again")
        for name, size in self.sizes.items():
            module, several = name.rpartition(".")[0], self.names[name]
            rows = size[:1] if len(several) == 1 else joined_sizes(self.shape, module, len(several))
            for one, its_rows in zip(several, rows, strict=True):
                stored, fitting = self.stored[one], (its_rows, *size[1:])
                if self.family.transposed and is_linear(module):
                    fitting = fitting[::-1]
                refuse(
                    tuple(stored.shape) != fitting or not stored.dtype.is_floating_point,
                    f"{one} of {self.place} is {tuple(stored.shape)} in {stored.dtype}, which does not fit config.json",
                    "copy the folder again",
                )

    def __getitem__(self, name):
        """A weight in the number format that it is stored in, in memory of its own."""
        if name == HEAD and self.shape.tied:
            name = EMBEDDING
        module = name.rpartition(".")[0]
        stored = [self.stored[one] for one in self.names[name]]
        weight = torch.empty(self.sizes[name], dtype=stored[0].dtype)
        turned = self.family.transposed and is_linear(module) and weight.dim() == 2
        rows = [each.shape[-1] if turned else each.shape[0] for each in stored]
        for each, target in zip(stored, weight.split(rows)):
            each.read_into(target.t() if turned else target)
        if (order := order_of_rows(self.family, self.shape, module)) is not None:
            weight = weight[order.argsort()]
        if name == HEAD and self.family.unit_head:
            weight = torch.nn.functional.normalize(weight.float()).to(weight.dtype)
        return weight

    def mapped(self, name):
        """A weight as it lies in its file, where it stands there as ours does; otherwise as above."""
        several, module = self.names[name], name.rpartition(".")[0]
        turned = self.family.transposed and is_linear(module)
        ordered = order_of_rows(self.family, self.shape, module) is not None
        if len(several) > 1 or turned or ordered or (name == HEAD and self.family.unit_head):
            return self[name]
        return self.stored[several[0]].mapped()

    def __iter__(self):
        yield from self.sizes
        if self.shape.tied:
            yield HEAD

    def __len__(self):
        return len(self.sizes) + self.shape.tied

    def __contains__(self, name):
        return name in self.sizes or (name == HEAD and self.shape.tied)


def sizes_of(weights: Weights) -> dict[str, torch.Size]:
    """{name: size} of weights, of which none is read for it."""
    if isinstance(weights, Changed):
        return {**sizes_of(weights.weights), **sizes_of(weights.new)}
    return weights.sizes if isinstance(weights, Joined) else {name: each.shape for name, each in weights.items()}


def joined_sizes(shape: GLMConfig, module: str, several: int) -> tuple[int, ...]:
    """How many rows each of `several` modules of theirs has that are joined in one of ours."""
    if module.endswith(QKV):
        return tuple(heads * shape.head_size for heads in (shape.n_head, shape.kv_heads, shape.kv_heads))
    return (shape.inner,) * several


def order_of_rows(family: Family, shape: GLMConfig, module: str) -> torch.Tensor | None:
    """Which rows of ours a module of a family's is made of, in their order; None where they stand as ours do."""
    return family.rows(shape).get(NUMBER.split(module, maxsplit=1)[-1])


def pieces(tensor: torch.Tensor, family: Family, shape: GLMConfig, module: str, names: Names):
    """[(their name, part)] of a weight or bias of one of our modules, with `names`, a family's modules or gguf."""
    several = module_names(names, module)
    if (order := order_of_rows(family, shape, module)) is not None:
        tensor = tensor[order]
    parts = (tensor,) if len(several) == 1 else tensor.split(joined_sizes(shape, module, len(several)))
    return list(zip(several, parts, strict=True))


@torch.no_grad()
def folded(model: MiniGLM, plain: GLMConfig) -> dict[str, torch.Tensor]:
    """The state dict, float32, of a model of the shape `plain`, see families.folded_shape, that computes the same.

    A norm on the embedding is one on the rows of its table; the scales go into the weights that they follow.
    """
    shape = model.config
    weights = {name: weight.float() for name, weight in model.state_dict().items()}
    weights[HEAD] = weights[HEAD] * shape.logits_multiplier
    if shape.embedding_norm or shape.embedding_multiplier != 1:
        table = model.token_embedding.weight * shape.embedding_multiplier
        norm = model.transformer["ln_e"] if shape.embedding_norm else torch.nn.Identity()
        weights[EMBEDDING] = norm(table).float()
        weights = {name: weight for name, weight in weights.items() if ".ln_e." not in name}
    for name, weight in MiniGLM.outline(plain).state_dict().items():
        if name not in weights:  # of a norm
            weights[name] = (torch.zeros if name.endswith("bias") else torch.ones)(weight.shape)
    stronger = shape.scale * shape.head_size**0.5  # the queries, than with the usual scale
    changed = "q_norm" if shape.qk_norm else QKV
    scaled = POST_NORMS if shape.post_norms else ADDING
    for name, weight in weights.items():
        if stronger != 1 and f".{changed}." in name:
            weight = weights[name] = weight.clone()
            weight[: shape.head_size if shape.qk_norm else shape.n_head * shape.head_size] *= stronger
        if shape.residual_multiplier != 1 and any(f".{part}." in name for part in scaled):
            weights[name] = weight * shape.residual_multiplier
    if plain.tied:
        weights[HEAD] = weights[EMBEDDING]
    return weights


def told_as(model: MiniGLM, preferred: str) -> tuple[Family, GLMConfig, dict[str, torch.Tensor]]:
    """(family, shape, weights) as others have a model of ours. preferred: see family_of. Raises UserError."""
    family, shape = family_of(model.config, preferred)
    head = model.state_dict()[HEAD]
    if family.unit_head and not torch.allclose(head.float().norm(dim=1), torch.ones(len(head)), atol=1e-2):
        family, shape = family_of(model.config)  # it has been trained since
    plain = shape == model.config
    return family, shape, dict(model.state_dict()) if plain else folded(model, shape)


def modules_of(weights: Weights, family: Family, shape: GLMConfig) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """(our module, {"weight" or "bias": tensor}) of a model; biases that the family has and the model has not are zero.

    A tied head is left out.
    """
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.items():
        if name != HEAD or not shape.tied:
            module, _, part = name.rpartition(".")
            modules.setdefault(module, {})[part] = tensor
    # Which biases the family has its config.json tells, once it is read again.
    has = MiniGLM.outline(replace(told_back(family, shape)[1], n_layer=1)).state_dict() if family.filled else {}
    for module, tensors in modules.items():
        if f"{NUMBER.sub('.0.', module, count=1)}.bias" in has:
            tensors.setdefault("bias", torch.zeros(len(tensors["weight"])))
        yield module, tensors


def theirs_from(model: MiniGLM, preferred: str, dtype: torch.dtype) -> tuple[dict, dict]:
    """(config.json's content, weights in `dtype`) of a model of ours, as others have them.

    preferred: the title of the family that the model came from, "" for none. Raises UserError where no family fits.
    """
    family, shape, weights = told_as(model, preferred)
    stored = {}
    for module, tensors in modules_of(weights, family, shape):
        for part, tensor in tensors.items():
            turned = family.transposed and is_linear(module) and part == "weight"
            for name, piece in pieces(tensor, family, shape, module, family.modules):
                stored[f"{name}.{part}"] = (piece.t() if turned else piece).to(dtype).contiguous()
    config = {
        **config_of(family, shape),
        **dict.fromkeys(family.dropouts, model.config.dropout),
        "tie_word_embeddings": shape.tied,
        "dtype": str(dtype).removeprefix("torch."),
    }
    return config, stored


def gguf_tensors(model: MiniGLM, preferred: str) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """(llama.cpp's name, float32 tensor, whether it is never quantized) of each tensor of a model of ours.

    preferred: see theirs_from. Raises UserError where llama.cpp knows no family that fits.
    """
    family, shape, weights = told_as(model, preferred)
    for module, tensors in modules_of(weights, family, shape):
        for part, tensor in tensors.items():
            exact = tensor.dim() == 1 or module == POSITIONS
            for place, (name, piece) in enumerate(pieces(tensor.float(), family, shape, module, family.gguf)):
                yield f"{name}.{part}", as_llama_cpp_turns(piece, family, shape, module, place), exact
    if shape.scaling[0] == "llama3":  # how much slower each pair turns
        yield "rope_freqs.weight", rope_frequencies(replace(shape, rope_scaling="")) / rope_frequencies(shape), True


def as_llama_cpp_turns(piece: torch.Tensor, family: Family, shape: GLMConfig, module: str, place: int) -> torch.Tensor:
    """A piece of one of our modules with its rows as llama.cpp has them: of queries and keys others turn together."""
    turned = family.gguf_pairs == "neighbours" and shape.positions == "rope" and shape.rope_pairs == "halves"
    if not turned or not module.endswith(QKV) or place == 2:
        return piece
    return piece[neighbours_order(len(piece), shape)]


def gguf_adapter(parts: Weights, shape: GLMConfig, preferred: str) -> Iterator[tuple[str, torch.Tensor]]:
    """(llama.cpp's name, float32 matrix) of each part of an adapter on a model of a shape, see adapter_to_theirs.

    Raises UserError where the model's layers are others once its multipliers are folded in.
    """
    family, as_told = family_of(shape, preferred)
    refuse(
        changes_rows(shape, as_told),
        "the adapter changes layers that are others in a GGUF file of this model",
        "fold it in with --merge=True",
    )
    for module, place, name, letter, part in adapter_pieces(parts, family, shape, family.gguf):
        turned = as_llama_cpp_turns(part, family, shape, module, place) if letter == "B" else part
        yield f"{name}.weight.lora_{letter.lower()}", turned.float()


def adapter_pieces(parts: Weights, family: Family, shape: GLMConfig, names: Names):
    """(our layer, which part of it, their layer, A or B, matrix) of an adapter's parts, with `names`, see pieces."""
    for name, part in parts.items():
        layer, _, rest = name.partition(".lora_")
        letter = rest[0]
        apart = (
            pieces(part, family, shape, layer, names)
            if letter == "B"
            else [(one, part) for one in module_names(names, layer)]
        )
        for place, (one, piece) in enumerate(apart):
            yield layer, place, one, letter, piece


def changes_rows(shape: GLMConfig, as_told: GLMConfig) -> bool:
    """Whether the layers of a model of a shape are others once it is folded into the shape that others are told."""
    folded_in = shape.residual_multiplier != 1 or (shape.attention_scale and not shape.qk_norm)
    return as_told != shape and bool(folded_in)


def neighbours_order(rows: int, shape: GLMConfig) -> torch.Tensor:
    """Which of so many rows of queries or keys stand where numbers that turn together stand side by side."""
    heads = torch.arange(rows).view(-1, shape.head_size)
    pairs = heads[:, : shape.rotated].unflatten(1, (2, -1)).transpose(1, 2).flatten(1)
    return torch.cat([pairs, heads[:, shape.rotated :]], 1).flatten()


def adapter_to_theirs(parts: Weights, shape: GLMConfig, preferred: str) -> tuple[dict, list[str], bool]:
    """(parts, the layers' last names, whether their weights are transposed) of an adapter on a model of a shape.

    parts: {"LAYER.lora_A.weight": …} of ours. preferred: see theirs_from. Where no family computes what the model
    does, or its layers are others once it is folded, the names stay ours.
    """
    try:
        family, as_told = family_of(shape, preferred)
    except UserError:
        family, as_told = None, shape
    if family is None or changes_rows(shape, as_told):
        return dict(parts), sorted({NUMBER.split(name)[-1].rpartition(".lora_")[0] for name in parts}), False
    theirs, targets = {}, set()
    for _, _, name, letter, part in adapter_pieces(parts, family, shape, family.modules):
        theirs[f"{name}.lora_{letter}.weight"] = part.clone()
        targets.add(NUMBER.split(name)[-1])
    return theirs, sorted(targets), family.transposed


def adapter_to_ours(parts: Weights, shape: GLMConfig, rank: int, preferred: str) -> tuple[Weights, int]:
    """(parts, rank) with our names of an adapter that may have a family's. preferred: see theirs_from.

    Where layers that we join have changes of their own, those stand side by side in a larger rank. Raises KeyError for
    layers of another model and for half a change, and others where a part does not fit.
    """
    if all(is_linear(name.partition(".lora_")[0]) for name in parts):
        return parts, rank
    family, ours_of = family_of(shape, preferred)[0], {}
    for module in (BLOCK.format(number) + layer for number in range(shape.n_layer) for layer in LINEAR):
        several = module_names(family.modules, module)
        ours_of |= {theirs: (module, place) for place, theirs in enumerate(several)}
    changes: dict[str, dict[int, tuple[torch.Tensor, torch.Tensor]]] = {}
    for theirs in {name.partition(".lora_")[0] for name in parts}:
        module, place = ours_of[theirs]
        A, B = (parts[f"{theirs}.lora_{letter}.weight"].float() for letter in "AB")
        if len(A) != rank or B.size(1) != rank:
            raise ValueError(f"{theirs} has another rank")
        changes.setdefault(module, {})[place] = (A, B)
    shared = all(A.equal(next(iter(placed.values()))[0]) for placed in changes.values() for A, _ in placed.values())
    width = rank if shared else rank * max(map(len, changes.values()))
    weights = {}
    for module, placed in changes.items():
        several = len(module_names(family.modules, module))
        sizes = joined_sizes(shape, module, several) if several > 1 else (len(placed[0][1]),)
        joined_A = torch.zeros(width, next(iter(placed.values()))[0].size(1))
        joined_B = torch.zeros(sum(sizes), width)
        for number, (place, (A, B)) in enumerate(sorted(placed.items())):
            columns = slice(0, rank) if shared else slice(number * rank, (number + 1) * rank)
            joined_A[columns] = A
            joined_B[sum(sizes[:place]) : sum(sizes[: place + 1]), columns] = B
        if (order := order_of_rows(family, shape, module)) is not None:
            joined_B = joined_B[order.argsort()]
        weights |= {f"{module}.lora_A.weight": joined_A, f"{module}.lora_B.weight": joined_B}
    return weights, width
