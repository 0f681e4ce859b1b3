"""A look at one step of a run whose numbers went wrong: the loss of each row of its batches, and where it broke."""

import torch

from miniglm.batch import Batch


@torch.no_grad()
def tell_step(model, batches: list[Batch], loss_of, autocast, tokenizer):
    """Print the loss of each row with its beginning, and in which parameters the gradient is not finite.

    batches: of the step, on the model's device. loss_of: the objective. The gradients are those in the model.
    """
    model.eval()
    for batch in batches:
        for number, ids in enumerate(batch.ids.tolist()):
            row = batch.row(number)
            with autocast:
                loss = loss_of(model, row).item()
            index, text = batch.seed & 0xFFFFFFFF, tokenizer.decode(ids)[:40]
            print(f"batch {index} row {number}: loss {loss:.4f} over {int(row.weight)} tokens: {text!r}")
    broken = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    print(f"gradient not finite in: {', '.join(broken) or 'none'}")
