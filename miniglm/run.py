"""Where a run stands, and its folder: checkpoints, log.jsonl, what is printed, and what a signal does.

It does not know how a loss is computed.
"""

import contextlib
import json
import math
import os
import signal
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from miniglm.book.passages import copy_book
from miniglm.checkpoint import (
    BEST,
    CHECKPOINT,
    Checkpoint,
    State,
    adapter_of,
    load_checkpoint,
    save_checkpoint,
    set_aside,
)
from miniglm.errors import UserError, refuse
from miniglm.families import lora_layers
from miniglm.files import sha256, write_whole
from miniglm.lora import merged_state
from miniglm.machine import peak_memory
from miniglm.objectives import is_overfitted
from miniglm.optimizers import Optimizers, Schedule
from miniglm.origin import Start, trains
from miniglm.parallel import Group, part_like
from miniglm.vocabulary import fingerprint

TIMED_STEPS = 20  # tell how many fit into --fit_minutes
# Settings of a call, which may differ when a run is resumed without changing its losses.
OF_THE_CALL = {"out_dir", "init_from", "ckpt_dir", "overwrite", "max_minutes", "eval_only", "replay", "run"}
OF_THE_CALL |= {"keep_last", "log_interval", "merge_lora", "gradient_checkpointing", "shard"}


class Run:
    """One training run of one process; `state` is where it stands.

    The first process of the group writes and prints, the others keep step.
    """

    def __init__(
        self,
        settings: dict,
        start: Start,
        data,
        optimizers: Optimizers,
        schedule: Schedule,
        scaler: torch.amp.GradScaler,
        group: Group,
    ):
        """settings: train.py's.

        Stands where the checkpoint of `start` stands, if there is one. Raises UserError.
        """
        self.folder, self.start, self.data, self.group = Path(settings["out_dir"]), start, data, group
        self.model, self.optimizers, self.schedule, self.scaler = start.model, optimizers, schedule, scaler
        self.trains = trains(settings)  # whether a model is trained for good; else nothing is written
        self.writes = self.trains and group.main
        self.settings = settings | settings_found(start, data, group)
        self.state = State()
        self.val_loss = math.nan  # the last estimate
        self.step_times = []  # of the steps that --fit_minutes goes by
        if start.checkpoint:
            self.restore(start.checkpoint)
            if start.checkpoint.settings.get("fit_minutes") != settings["fit_minutes"]:
                self.state.planned = 0
            self.keep_to_plan()
            self.tell_changes(start.checkpoint.settings)
        none = settings["replay"] >= self.max_iters
        refuse(none, f"--replay={settings['replay']} is none of the {self.max_iters} steps", "choose one of them")
        if settings["replay"] >= 0:
            self.state.step = min(self.state.step, settings["replay"])
        if self.writes:
            if start.replaces:
                set_aside(self.folder)
            self.rewind_log()
        self.skipped_in_a_row = 0
        self.seconds_saving = []  # how long each checkpoint took
        self.kept = f"saved at step {self.state.step}" if start.checkpoint else "nothing saved yet"
        self.began, self.seconds_before, self.tokens_before = time.monotonic(), self.state.seconds, self.state.tokens

    @property
    def seconds(self) -> float:
        """How long the run has taken so far, over all its calls."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def max_iters(self) -> int:
        """Steps in all: as they were set, or of these as many as fit into --fit_minutes, once that is told."""
        return self.settings["max_iters"]

    @property
    def learning_rate(self) -> float:
        """Of the present step."""
        return self.state.rate * self.schedule.at(self.state.step)

    def restore(self, checkpoint: Checkpoint):
        """Stand where a checkpoint of this run stands: weights, optimizers, counts. Settings stay those of now."""
        try:
            if self.start.adapter:
                adapter_of(checkpoint, self.folder).into(self.model)
            else:
                places = self.model.state_dict()
                weights = {name: part_like(part, places.get(name, part)) for name, part in checkpoint.weights.items()}
                self.model.load_state_dict(weights)
            self.optimizers.load(checkpoint.optimizers, self.folder)
            if checkpoint.scaler and self.scaler.is_enabled():
                self.scaler.load_state_dict(checkpoint.scaler)
        except (MemoryError, torch.OutOfMemoryError, UserError):
            raise
        except Exception as error:  # a damaged state fails in many ways
            raise UserError(
                f"the checkpoint in {self.folder} is none that a run can go on from", "train again"
            ) from error
        self.state = checkpoint.state

    def keep_to_plan(self):
        """Take as many steps as --fit_minutes was found to give, and let the rate fall until then."""
        if self.settings["fit_minutes"] and self.state.planned:
            self.settings["max_iters"] = self.state.planned
            self.schedule = replace(self.schedule, decay_iters=self.state.planned)

    def count_step(self, seconds: float):
        """Go on to the next step; the one before took so long. The first ones tell what --fit_minutes gives, once.

        From then on the number is kept with the run, and all follows from the step.
        """
        self.state.step += 1
        self.state.step_seconds += seconds
        minutes = self.settings["fit_minutes"]
        if not minutes or self.state.planned:
            return
        self.step_times.append(seconds)
        if len(self.step_times) > TIMED_STEPS:  # the very first warms up
            each = self.group.first(statistics.median(self.step_times[1:]))
            left = 60 * minutes - self.group.first(self.state.step_seconds)
            fitting = self.state.step + max(0, round(left / max(each, 1e-6)))
            self.state.planned = min(fitting, self.max_iters)
            self.keep_to_plan()
            self.print(f"{self.max_iters} steps of {each:.3f} s fit into {minutes:g} minutes")

    def tell_changes(self, before: dict):
        """Print which settings are not what they were, and what part of the rate is used."""
        changed = [
            f"{key} {value} (was {before[key]})"
            for key, value in self.settings.items()
            if key not in OF_THE_CALL and not same_setting(key, before.get(key, value), value)
        ]
        if changed:
            self.print(f"not what it was: {', '.join(changed)}; the losses will not be those of a run left alone")
        if self.state.rate < 1:
            step = self.state.step
            self.print(
                f"with {self.state.rate:g} of the learning rate, since the numbers went wrong before step {step}"
            )

    def tell_beginning(self):
        """Print what is trained, and from where."""
        start, settings = self.start, self.settings
        place = f"{start.parameters:,} parameters on {self.group.device} in {settings['dtype']}"
        open_end = settings["fit_minutes"] and not self.state.planned
        steps = f"as many as fit into {settings['fit_minutes']:g} minutes" if open_end else self.max_iters
        self.print(f"{place}; {start.init_from} at step {self.state.step} of {steps}")
        if start.adapter:
            trained = settings["trained_parameters"]
            self.print(f"LoRA trains {trained:,} beside them; they stay as they are in {start.ckpt_dir}")
        elif settings["freeze"]:
            self.print(f"{settings['trained_parameters']:,} of them are trained; the others stay as they are")
        if self.group.device == "cpu" and start.parameters > 20_000_000:
            self.print("this model is meant for a GPU; config/demo_pretrain.py suits a CPU")

    def tell_losses(self, train_loss: float, val_loss: float, last: bool) -> float:
        """Print both estimates and put them into the log; the validation loss, or nan where one of them is no number.

        last: whether no step follows; a loss that is no number is a UserError then.
        """
        self.print(f"step {self.state.step}: train loss {train_loss:.4f}, validation loss {val_loss:.4f}")
        if not math.isfinite(train_loss + val_loss):
            refuse(last, f"the loss is no number at step {self.state.step}", "train again with a lower --learning_rate")
            return math.nan
        self.write_log("train_eval", train_loss)
        self.write_log("val", val_loss)
        self.val_loss = val_loss
        return val_loss

    def tell_step(self, loss: float, norm: float, figures: dict[str, float]) -> str:
        """Put a step that was taken into the log; what a progress bar shows of it. figures: of its batches."""
        skipped = {"skipped": len(self.state.skipped)} if self.state.skipped else {}
        self.write_log("train", loss, grad_norm=norm, memory=peak_memory(self.group.device), **skipped, **figures)
        speed = (self.state.tokens - self.tokens_before) / (time.monotonic() - self.began)
        shown = f"reward {figures['reward']:.3f}" if "reward" in figures else f"loss {loss:.3f}"
        return f"{shown}, {speed:,.0f} tokens/s"

    def write_log(self, split: str, loss: float, **more):
        """Append one event to log.jsonl."""
        if not self.writes:
            return
        event = {"iter": self.state.step, "split": split, "loss": loss, "lr": self.learning_rate}
        event |= {"tokens": self.state.tokens, "seconds": round(self.seconds, 3)}
        event |= {"step_seconds": round(self.state.step_seconds, 3), **more}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def rewind_log(self):
        """Keep the log's lines on steps before this one: the later ones will be written again."""
        path, kept = self.folder / "log.jsonl", []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):  # a killed run's last is half
                if json.loads(line)["iter"] < self.state.step:
                    kept.append(line + "\n")
        with write_whole(path) as file:
            file.writelines(kept)

    def save(self, val_loss: float):
        """Write the checkpoint; val_loss is its validation loss, infinite where it was not estimated.

        Not before the first step, and not amid skipped ones, where the last good checkpoint stays.
        """
        last = self.state.step >= self.max_iters
        if not self.trains or self.state.step == 0 or (self.skipped_in_a_row and not last):
            return
        best = val_loss < self.state.best_val_loss
        self.state.best_val_loss = min(val_loss, self.state.best_val_loss)
        begun, self.state.seconds = time.monotonic(), self.seconds
        checkpoint = self.checkpoint()  # in every process
        if self.writes:
            save_checkpoint(self.folder, checkpoint, self.data.tokenizer, best, self.settings["keep_last"])
            copy_book(self.data.folder, self.folder)
        self.seconds_saving.append(time.monotonic() - begun)
        self.kept = f"saved at step {self.state.step}"

    def checkpoint(self) -> Checkpoint:
        """The model and the run as they are now; of a model with an adapter, the adapter, merged if asked for."""
        adapter = self.start.adapter and self.start.adapter.of(self.model)
        if adapter is None:
            weights = self.group.whole(self.model.state_dict())
        else:
            weights = merged_state(self.model, adapter) if self.settings["merge_lora"] else {}
        return Checkpoint(
            weights=weights,
            shape=vars(self.model.config),
            settings=self.settings,
            chat=self.data.chat,
            fingerprint=fingerprint(self.data.tokenizer),
            family=self.start.family,
            searches=self.data.searches,
            normalisation=self.data.normalisation,
            state=self.state,
            optimizers=self.group.whole(self.optimizers.state_dicts()),
            scaler=self.scaler.state_dict(),
            adapter=adapter,
        )

    def skip_step(self):
        """Count and print a step that is not taken, since its gradient is not finite."""
        self.skipped_in_a_row += 1
        self.state.skipped.append(self.state.step)
        step = self.state.step
        self.print(
            f"step {step} skipped, its gradient is not finite; --init_from=resume --replay={step} shows its batch"
        )

    def go_back(self):
        """Return to the last checkpoint with half the rate. Raises UserError where there is none, or at an eighth."""
        rate, lower, skipped = self.state.rate, self.state.rate / 2, self.state.skipped
        even = f", even at {rate:g} of the rate" if rate < 1 else ""
        refuse(
            lower < 1 / 8 or not Path(self.folder, CHECKPOINT).exists() or not self.trains,
            f"the gradient was not finite for {self.settings['max_skipped']} steps in a row, up to step"
            f" {self.state.step}{even}",
            f"lower --learning_rate, or look at a step's batch with --init_from=resume --replay={skipped[-1]}",
        )
        self.restore(load_checkpoint(self.folder))
        self.state.rate, self.skipped_in_a_row = lower, 0
        if self.writes:
            self.rewind_log()
        self.print(f"gone back to the checkpoint of step {self.state.step}, with {lower:g} of the learning rate")

    def tell_end(self, stop: "Stop", stopping: bool, of_batches: str = ""):
        """Print what was skipped, what saving took, and how to go on where the run was stopped before its end.

        of_batches: what there is to tell of them, see Source.closing.
        """
        state, skipped = self.state, self.state.skipped
        if of_batches:
            self.print(of_batches)
        if skipped and self.trains:
            more = ", …" if len(skipped) > 20 else ""
            self.print(f"{len(skipped)} steps were skipped: {', '.join(map(str, skipped[:20]))}{more}")
        if self.seconds_saving:
            taken = sum(self.seconds_saving)
            share = taken / (time.monotonic() - self.began)
            self.print(f"{len(self.seconds_saving)} checkpoints took {taken:.1f} s, {share:.1%} of the time")
        if not self.data.chat and is_overfitted(self.val_loss, state.best_val_loss):
            self.print(
                f"overfitting: the validation loss was {state.best_val_loss:.4f} at its lowest and is"
                f" {self.val_loss:.4f} now; fine-tuning will go on from {BEST}, fewer --epochs would have been enough"
            )
        if stopping and self.trains and state.step < self.max_iters:
            why = stop.reason or "another process was asked to"
            self.print(
                f"stopped at step {state.step} ({why}), {self.kept};"
                " go on with --init_from=resume and the same settings"
            )

    def print(self, line: str):
        """Print a line above the progress bar, in the first process."""
        if self.group.main:
            tqdm.write(line)


class Stop:
    """Whether the run is to stop in good order: Ctrl-C, SIGTERM, or the clock. A second Ctrl-C ends it at once."""

    def __init__(self, max_minutes: float, progress: tqdm, group: Group):
        """Takes the signals from now on. max_minutes: 0 for no limit. progress: the bar to be silenced."""
        self.max_minutes, self.progress, self.group = max_minutes, progress, group
        self.reason = ""  # why, "" as long as it is not
        self.interrupted = False  # by Ctrl-C
        self.began = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    @property
    def asked(self) -> bool:
        """Whether this process was asked to stop."""
        if self.max_minutes and time.monotonic() - self.began > 60 * self.max_minutes:
            self.reason = self.reason or f"{self.max_minutes:g} minutes have passed"
        return bool(self.reason)

    def _on_signal(self, number, frame):
        if number == signal.SIGINT and self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = self.interrupted or number == signal.SIGINT
        self.reason = self.reason or signal.Signals(number).name
        self.progress.disable = True  # what it writes to may have had the same Ctrl-C
        if self.group.main:
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")


def settings_found(start: Start, data, group: Group) -> dict:
    """What the settings kept with a run say of it that was found out: the model's shape, the machine, the data."""
    shape = start.model.config
    trained = sum(parameter.numel() for parameter in start.model.parameters() if parameter.requires_grad)
    return {
        **{name: value for name, value in vars(shape).items() if name not in ("block_size", "vocab_size", "dropout")},
        "ckpt_dir": start.ckpt_dir,
        "block_size": start.block_size,
        "trained_parameters": trained,
        "device": group.device_type,
        "dtype": start.dtype,
        "processes": group.size,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "data": sha256(data.folder / "meta.json")[:12],
        "run": os.environ.get("TORCHELASTIC_RUN_ID", ""),  # torchrun's
    }


def same_setting(key: str, before, now) -> bool:
    """Whether a setting means what it meant before; LoRA's targets have had other names."""
    if key == "lora_targets" and before != now:
        return lora_layers(str(before)) == lora_layers(str(now))
    return before == now
