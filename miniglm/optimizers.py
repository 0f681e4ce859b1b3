"""How the weights move: AdamW and Muon as one optimizer, and the schedule of their rate."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from miniglm.errors import refuse
from miniglm.parallel import gathered, part_like


@dataclass(frozen=True)
class Schedule:
    """The learning rate: a linear warm-up, then a cosine down to min_lr, which stays (Loshchilov and Hutter 2017)."""

    learning_rate: float  # the highest
    min_lr: float
    warmup_iters: int  # steps to reach learning_rate
    decay_iters: int  # the step at which min_lr is reached
    decays: bool = True  # False: learning_rate throughout

    def at(self, step: int) -> float:
        """The rate of a step."""
        if not self.decays:
            return self.learning_rate
        if step < self.warmup_iters:
            return self.learning_rate * (step + 1) / (self.warmup_iters + 1)
        progress = min(1.0, (step - self.warmup_iters) / max(1, self.decay_iters - self.warmup_iters))
        return self.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (self.learning_rate - self.min_lr)


class Muon(torch.optim.Muon):
    """PyTorch's Muon, whose products may be float32, not always bfloat16: forty times as fast on CPUs without AVX-512.

    Jordan et al. 2024, kellerjordan.github.io/posts/muon. An update is of AdamW's size (arXiv:2502.16982), so that one
    learning rate serves both.
    """

    def __init__(self, matrices, weight_decay: float, ns_steps: int, dtype: torch.dtype):
        """matrices: the parameters. ns_steps: Newton-Schulz steps. dtype: of their products."""
        super().__init__(matrices, weight_decay=weight_decay, ns_steps=ns_steps, adjust_lr_fn="match_rms_adamw")
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None):
        """Move the matrices by their gradients; there is no closure."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                mean = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                update = self.orthogonal(matrix.grad.lerp(mean, momentum), group)
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.add_(update, alpha=-0.2 * math.sqrt(max(matrix.shape)) * rate)

    def orthogonal(self, update, group):
        """An update (rows, columns) with its singular values brought near to 1, by Newton-Schulz steps."""
        a, b, c = group["ns_coefficients"]
        tall = update.size(0) > update.size(1)
        x = (update.T if tall else update).to(self.dtype)
        x = x / x.norm().clamp(min=group["eps"])
        for _ in range(group["ns_steps"]):
            square = x @ x.T
            x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
        return x.T if tall else x


class Optimizers:
    """The optimizers of a model's trainable parameters, which step together.

    AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) for all; with `kind` muon, Muon for the matrices of the blocks
    and AdamW for the rest.
    """

    def __init__(self, model, kind: str, weight_decay: float, betas: tuple[float, float], ns_steps: int, dtype: str):
        """weight_decay: of matrices only. betas: AdamW's. ns_steps: Muon's. dtype: of the training's products."""
        self.kind, self.parameters = kind, list(model.parameters())
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        in_blocks = [parameter for parameter in model.blocks.parameters() if parameter.requires_grad]
        by_muon = [parameter for parameter in in_blocks if parameter.dim() == 2] if kind == "muon" else []
        taken = set(map(id, by_muon))
        rest = [parameter for parameter in trained if id(parameter) not in taken]
        groups = [
            {"params": [parameter for parameter in rest if parameter.dim() >= 2], "weight_decay": weight_decay},
            {"params": [parameter for parameter in rest if parameter.dim() < 2], "weight_decay": 0.0},
        ]
        fused = model.device.type in ("cuda", "cpu")
        self.all: list[torch.optim.Optimizer] = []
        if rest:
            self.all.append(torch.optim.AdamW(groups, betas=betas, fused=fused))
        if by_muon:
            narrow = torch.bfloat16 if dtype == "bfloat16" else torch.float32  # float16 holds too little
            self.all.append(Muon(by_muon, weight_decay, ns_steps, narrow))

    def unscaled_norm(self, scaler: torch.amp.GradScaler) -> torch.Tensor:
        """Take the loss scale out of the gradients; their length over all parameters, a scalar tensor."""
        for optimizer in self.all:
            scaler.unscale_(optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        return gathered(nn.utils.get_total_norm(gradients))

    def step(self, rate: float, norm: torch.Tensor, grad_clip: float, scaler: torch.amp.GradScaler):
        """Move the weights by their gradients, whose length is `norm`, cut down to grad_clip (0: as they are)."""
        nn.utils.clip_grads_with_norm_(self.parameters, grad_clip or math.inf, norm)
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = rate
            scaler.step(optimizer)

    def zero_grad(self):
        """Forget the gradients."""
        for optimizer in self.all:
            optimizer.zero_grad(set_to_none=True)

    def state_dicts(self) -> list[dict]:
        """The state of each optimizer, for a checkpoint."""
        return [optimizer.state_dict() for optimizer in self.all]

    def load(self, states: list[dict], place):
        """Give them the states that they had in a checkpoint, but the settings of now. `place` names it in messages.

        Raises UserError for those of other optimizers, and others where a state does not fit.
        """
        refuse(
            len(states) != len(self.all),
            f"{place} was not trained with --optimizer={self.kind}",
            "resume with the settings of the run, which are in its config.json",
        )
        for optimizer, state in zip(self.all, states):
            restore_optimizer(optimizer, state)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict):
    """Give an optimizer the state that it had in a checkpoint, but the settings of now. Raises where it does not fit.

    load_state_dict looks at no shapes, and a fused step would write beyond a tensor that is too small.
    """
    changing = ("params", "lr")  # the rate is set anew at each step
    present = [{key: value for key, value in group.items() if key not in changing} for group in optimizer.param_groups]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {  # every process has read all of it
        number: {key: value if key == "step" else part_like(value, parameters[number]) for key, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": parts})
    for group, values in zip(optimizer.param_groups, present, strict=True):
        group.update(values)
    needed = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "Muon": {"momentum_buffer"}}[type(optimizer).__name__]
    for parameter, values in optimizer.state.items():
        if values.keys() != needed:
            raise ValueError("a state of another optimizer")
        for key, value in values.items():
            shape = () if key == "step" else parameter.shape
            if value.shape != shape or not value.is_contiguous() or not value.isfinite().all().item():
                raise ValueError(f"{key} does not fit")
