"""The training loop of every mode: steps, validations, checkpoints, and the reasons to stop early."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from xattn.errors import TrainingStopped
from xattn.training import checkpoints, parallel
from xattn.training.checkpoints import State
from xattn.training.objective import Batches, Objective, optimizer_of
from xattn.training.settings import Settings, rate
from xattn.training.validation import Validated, Validation, diverged

Log = Callable[[dict[str, Any]], None]


class Loop:
    """One run, from wherever its last checkpoint stands.

    directory: of state.pt and log.jsonl; key: see `state.save`; on_entry: called with each log entry. All
    processes of a run go through it together; the first one writes and tells.
    """

    def __init__(
        self,
        objective: Objective,
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
        self.parameters = [p for _, p in objective.trained()]
        self.optimizer = optimizer_of(objective, settings)
        # Half precision with five bits of exponent loses small gradients, unless they are scaled up.
        self.scaler = torch.amp.GradScaler(
            objective.model.device.type, enabled=objective.precision == torch.float16
        )
        self.num_steps = settings.epochs * batches.per_epoch
        # Validated after these steps: evenly spread, the last one included.
        count = min(settings.validations, self.num_steps)
        self.validated_after = {round(self.num_steps * (i + 1) / count) for i in range(count)}
        self._saved = time.monotonic()

    def run(self) -> State:
        """Leaves the objective with the parameters of the best validation, in eval mode.

        Raises TrainingStopped if the loss or its gradient is no longer a number.
        """
        found = checkpoints.load(self.path, self.key, self.objective, self.optimizer, self.scaler)
        state = self._begun() if found is None else found
        if parallel.is_main():
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
            if parallel.from_main(time.monotonic() - self._saved >= self.settings.save_seconds):
                self._save(state)
        self._save(state)
        checkpoints.load_trained(self.objective, state.best)
        self.objective.eval()
        return state

    def _begun(self) -> State:
        """The starting model is the first to be validated: training has to beat it."""
        torch.manual_seed(self.settings.seed)
        self.objective.set_scales(self.batches.batch(0, 0))
        parallel.same(self.parameters)
        first = self.validation(self.objective)
        start = checkpoints.trained_state(self.objective)
        average = {}
        if self.settings.ema:
            average = {name: p.detach().clone() for name, p in self.objective.trained()}
        state = State(0, start, first.value, 0, [], average)
        if parallel.is_main():
            self.log_path.write_text("", encoding="utf-8")
        self._validated(state, first)
        self._save(state)
        return state

    def _step(self, state: State) -> None:
        started = time.monotonic()
        epoch, index = divmod(state.step, self.batches.per_epoch)
        batch = self.batches.batch(epoch, index)
        self._look_ahead(state.step + 1)
        share = rate(self.settings, state.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        # Every step and process begins with random numbers of its own: a checkpoint need not keep them.
        torch.manual_seed((self.settings.seed * self.num_steps + state.step) * 1024 + parallel.rank())
        self.optimizer.zero_grad()
        factor = self.scaler.scale(torch.ones((), device=self.objective.model.device)).item()
        found = self.objective.backward(batch, factor)
        parallel.add_gradients(self.parameters)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = parallel.clip_gradients(self.parameters, self.settings.max_gradient_norm)
        total, pooled, attended = parallel.added(
            torch.stack([found.total.detach(), found.pooled, found.attended])
        ).tolist()
        # Too large for half precision is not yet wrong: that step is left out, and the scale lowered.
        overflown = self.scaler.is_enabled() and not norm.isfinite() and self.scaler.get_scale() > 1
        if not math.isfinite(total) or not (norm.isfinite() or overflown):
            self._stop_at(epoch, index, total, norm.item())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._average(state)
        state.step += 1
        state.losses.append(total)
        if state.first_loss is None:
            state.first_loss = total
        scales = self.objective.log_scales.exp().tolist()
        self._log(
            state,
            {
                "step": state.step,
                "steps": self.num_steps,
                "epoch": epoch + 1,
                "rate": self.settings.learning_rate * share,
                "loss": total,
                "pooled": pooled,
                "attended": attended,
                "gradient_norm": norm.item(),
                "pooled_scale": scales[0],
                "attended_scale": scales[1],
                "pictures": len(batch.positives),
                "seconds": round(time.monotonic() - started, 3),
            },
        )

    def _look_ahead(self, step: int) -> None:
        """Lets the next batch be decoded while this one is computed."""
        if step < self.num_steps:
            batch = self.batches.batch(*divmod(step, self.batches.per_epoch))
            mine = parallel.part(len(batch.rows))
            self.objective.pictures.ahead(batch.rows[mine], batch.views[mine])

    @torch.no_grad()
    def _average(self, state: State) -> None:
        if not self.settings.ema:
            return
        # A plain mean at first, or the start would weigh on it for 1 / (1 - decay) steps.
        decay = min(self.settings.ema, (1 + state.step) / (10 + state.step))
        for name, parameter in self.objective.trained():
            state.average[name].lerp_(parameter.detach(), 1 - decay)

    def _stop_at(self, epoch: int, index: int, loss: float, norm: float) -> None:
        members = self.batches.members(epoch, index)
        names = [str(self.batches.pictures[i].path) for i in members]
        raise TrainingStopped(
            f"the loss is {loss} and its gradient's norm {norm} at epoch {epoch + 1}, batch {index + 1}: "
            f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}. The last good state is kept in "
            f"{self.path}. Lower the learning rate, as with --learning-rate "
            f"{self.settings.learning_rate / 10:g} --restart, or look at these pictures and captions"
        )

    def _validate(self, state: State) -> None:
        now = checkpoints.trained_state(self.objective)
        if state.average:
            checkpoints.load_trained(self.objective, state.average)
        found = self.validation(self.objective)
        if found.value > state.best_value:
            state.best = checkpoints.trained_state(self.objective) if state.average else now
            state.best_value, state.stale = found.value, 0
        else:
            state.stale += 1
        if state.average:
            checkpoints.load_trained(self.objective, now)
        assert state.first_loss is not None  # a step came before
        fault = found.fault(Validated.of_record(state.history[0])) or diverged(
            state.first_loss, state.losses
        )
        state.losses = []
        if fault is not None:
            state.stopped = (
                f"{fault}. Training stopped, and the best earlier state is used. Lower the learning rate, "
                f"as with --learning-rate {self.settings.learning_rate / 10:g} --restart; if that does not "
                "help, look whether most captions say the same, or belong to other pictures"
            )
        elif self.settings.patience and state.stale >= self.settings.patience:
            state.stopped = f"no better recall in {state.stale} validations"
        self._validated(state, found, fault)

    def _validated(self, state: State, found: Validated, fault: str | None = None) -> None:
        entry: dict[str, Any] = {"step": state.step, "steps": self.num_steps, **found.record()}
        entry["best"] = state.best_value
        if fault is not None:
            entry["fault"] = fault
        if state.stopped is not None:
            entry["stopped"] = state.stopped
        state.history.append(entry)
        self._log(state, entry)

    def _log(self, state: State, entry: dict[str, Any]) -> None:
        if not parallel.is_main():
            return
        line = json.dumps(entry) + "\n"
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(line)
        state.log_bytes += len(line.encode())
        self.on_entry(entry)

    def _save(self, state: State) -> None:
        checkpoints.save(self.path, self.key, state, self.objective, self.optimizer, self.scaler)
        self._saved = time.monotonic()


def _ignore(entry: dict[str, Any]) -> None:
    """Stands for a callback that was not given."""
