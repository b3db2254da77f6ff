"""The training loop of head mode: steps, validations, checkpoints, and the reasons to stop early."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.own import state as checkpoints
from training.own.head import Batches, HeadObjective, optimizer_of
from training.own.settings import Settings, rate
from training.own.state import State
from training.own.validation import Validated, Validation
from xattn.errors import TrainingStopped

Log = Callable[[dict[str, Any]], None]


class Loop:
    """One run, from wherever its last checkpoint stands.

    directory: of state.pt and log.jsonl; key: see `state.save`; on_entry: called with each log entry
    """

    def __init__(
        self,
        objective: HeadObjective,
        batches: Batches,
        validation: Validation,
        settings: Settings,
        directory: Path,
        key: str,
        on_entry: Log | None = None,
    ) -> None:
        self.objective = objective
        self.batches = batches
        self.validation = validation
        self.settings = settings
        self.path = directory / "state.pt"
        self.log_path = directory / "log.jsonl"
        self.key = key
        self.on_entry = on_entry or _ignore
        self.on_epoch: Callable[[int, bool], None] | None = None
        """Called before this program's first step of an epoch: (epoch, others were done before)."""
        self.optimizer = optimizer_of(objective, settings)
        self.num_steps = settings.epochs * batches.per_epoch
        # Validated after these steps: evenly spread, the last one included.
        count = min(settings.validations, self.num_steps)
        self.validated_after = {round(self.num_steps * (i + 1) / count) for i in range(count)}
        self._saved = time.monotonic()

    def run(self) -> State:
        """Leaves the objective with the parameters of the best validation, in eval mode.

        Raises TrainingStopped if the loss or its gradient is no longer a number.
        """
        found = checkpoints.load(self.path, self.key, self.objective, self.optimizer)
        state = self._begun() if found is None else found
        with self.log_path.open("a", encoding="utf-8") as file:
            # What was logged after the checkpoint is logged again.
            file.truncate(state.log_bytes)
        self.objective.train()
        last_epoch = None
        while state.step < self.num_steps and state.stopped is None:
            epoch, index = divmod(state.step, self.batches.per_epoch)
            if self.on_epoch is not None and epoch != last_epoch:
                self.on_epoch(epoch, index > 0)
                last_epoch = epoch
            self._step(state)
            if state.step in self.validated_after:
                self._validate(state)
            if time.monotonic() - self._saved >= self.settings.save_seconds:
                self._save(state)
        self._save(state)
        checkpoints.load_trained(self.objective, state.best)
        self.objective.eval()
        return state

    def _begun(self) -> State:
        """The starting model is the first to be validated: training has to beat it."""
        torch.manual_seed(self.settings.seed)
        self.objective.set_scales(self.batches.batch(0, 0))
        first = self.validation(self.objective)
        state = State(0, checkpoints.trained_state(self.objective), first.value, 0, [])
        self.log_path.write_text("", encoding="utf-8")
        self._validated(state, first)
        self._save(state)
        return state

    def _step(self, state: State) -> None:
        started = time.monotonic()
        epoch, index = divmod(state.step, self.batches.per_epoch)
        batch = self.batches.batch(epoch, index)
        lr = rate(self.settings, state.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        loss = self.objective(batch)
        loss.total.backward()
        parameters = [p for _, p in self.objective.trained()]
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.max_gradient_norm)
        if not (loss.total.isfinite() and norm.isfinite()):
            self._stop_at(epoch, index, loss.total.item(), norm.item())
        self.optimizer.step()
        state.step += 1
        scales = self.objective.log_scales.exp().tolist()
        self._log(
            state,
            {
                "step": state.step,
                "steps": self.num_steps,
                "epoch": epoch + 1,
                "rate": lr,
                "loss": loss.total.item(),
                "pooled": loss.pooled.item(),
                "attended": loss.attended.item(),
                "gradient_norm": norm.item(),
                "pooled_scale": scales[0],
                "attended_scale": scales[1],
                "pictures": len(batch.positives),
                "seconds": round(time.monotonic() - started, 3),
            },
        )

    def _stop_at(self, epoch: int, index: int, loss: float, norm: float) -> None:
        members = self.batches.members(epoch, index)
        names = [str(self.batches.pictures[i].path) for i in members]
        raise TrainingStopped(
            f"the loss is {loss} and its gradient's norm {norm} at epoch {epoch + 1}, batch {index + 1}: "
            f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}. The last good state is kept in "
            f"{self.path}. Lower the learning rate, as with --set learning_rate="
            f"{self.settings.learning_rate / 10:g} --restart, or look at these pictures and captions"
        )

    def _validate(self, state: State) -> None:
        found = self.validation(self.objective)
        if found.value > state.best_value:
            state.best, state.best_value, state.stale = (
                checkpoints.trained_state(self.objective),
                found.value,
                0,
            )
        else:
            state.stale += 1
        before = Validated(**{k: v for k, v in state.history[0].items() if k in Validated.__slots__})
        if found.collapsed(before):
            state.stopped = (
                f"the model has collapsed: one picture comes first for {found.most_first:.0%} of all "
                f"captions, {before.most_first:.0%} before. The best earlier state is used. Lower the "
                "learning rate, or look whether most captions say the same"
            )
        elif self.settings.patience and state.stale >= self.settings.patience:
            state.stopped = f"no better recall in {state.stale} validations"
        self._validated(state, found)

    def _validated(self, state: State, found: Validated) -> None:
        entry: dict[str, Any] = {"step": state.step, "steps": self.num_steps, **found.record()}
        entry["best"] = state.best_value
        if state.stopped is not None:
            entry["stopped"] = state.stopped
        state.history.append(entry)
        self._log(state, entry)

    def _log(self, state: State, entry: dict[str, Any]) -> None:
        line = json.dumps(entry) + "\n"
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(line)
        state.log_bytes += len(line.encode())
        self.on_entry(entry)

    def _save(self, state: State) -> None:
        checkpoints.save(self.path, self.key, state, self.objective, self.optimizer)
        self._saved = time.monotonic()


def _ignore(entry: dict[str, Any]) -> None:
    """Stands for a callback that was not given."""
