"""The trials of a search: an Optuna study stored in a folder, so that it can be resumed.

Optuna chooses points, stores and prunes trials. Its journal is a text file to which every change
appends one synced line, so a killed search can leave at most an incomplete last line, which the
next start removes.

The point of a trial is drawn by a new sampler, seeded from `(seed, trial number)`, on a copy of
the study, and stored at once. So a resumed search proposes the same points as without the
interruption: always for grid and random; for TPE, which learns from the finished trials, if these
are the same, hence always with one job.

Several processes may share a search (`xpnet.tune.owners`). Each trial then has an owner, and is
trained again by another process if its owner has died.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xpnet import random
from xpnet.config import TrainConfig
from xpnet.errors import ConfigError
from xpnet.training.history import Record
from xpnet.tune.folder import JOURNAL
from xpnet.tune.owners import Owners
from xpnet.tune.space import Range, Space, configure, grid_points
from xpnet.tune.workers import Outcome
from xpnet.utils.quiet import without_warnings

if TYPE_CHECKING:
    import optuna

OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "val_accuracy": "maximize",
    "val_loss": "minimize",
}
STATES = ("complete", "repeated", "pruned", "failed", "invalid", "running")
_TRIALS = 30
_LEARNING = 5
"""The number of complete trials before any is pruned."""


@dataclass(frozen=True)
class Trial:
    """One point of the space and the outcome of its training, None while it is running.

    `state`: complete, repeated (complete, with the outcome of another trial), pruned (stopped
    early), failed, invalid (its settings contradict each other, so it was not trained) or running.
    """

    number: int
    point: dict[str, Any]
    state: str
    outcome: Outcome | None


LOCK_SECONDS = 30
"""After which a lock of the journal, held for the time of a write, is that of a dead process."""


class Search:
    """The trials of one space, stored in `folder`, which `search_folder` has prepared.

    `objective`: the field of the best record that ranks trials, `val_accuracy` (higher is better)
    or `val_loss` (lower is better). Random and TPE trials whose best value so far is worse than
    the median of the others at the same epoch are pruned: after 5 complete trials, from a quarter
    of the epochs on, and not if `epochs` itself is searched, since schedules of different lengths
    cannot be compared before the end. `owners`: the processes that share the search, if it is
    shared.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        base: TrainConfig,
        sampler: str,
        objective: str,
        owners: Owners | None = None,
    ) -> None:
        import_optuna()
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

        self.space, self.base, self.sampler, self.objective = space, base, sampler, objective
        self.grid: list[dict[str, Any]] | None = None
        if sampler == "grid":
            self.grid = grid_points(space, base)
            self.space = {k: a.grid() if isinstance(a, Range) else a for k, a in space.items()}
        self.distributions = {key: axis.distribution() for key, axis in self.space.items()}
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.grid is None and "epochs" not in space:
            pruner = optuna.pruners.MedianPruner(_LEARNING, max(2, -(-base.epochs // 4)))
        # Optuna's lock is a link to the journal: a relative one would lead nowhere, and one that a
        # killed process has left would never be found to be old.
        journal = str((folder / JOURNAL).absolute())
        lock = JournalFileSymlinkLock(journal, grace_period=LOCK_SECONDS)
        try:
            self.study = optuna.create_study(
                study_name="search",
                storage=JournalStorage(JournalFileBackend(journal, lock)),
                sampler=optuna.samplers.RandomSampler(),
                pruner=pruner,
                direction=OBJECTIVES[objective],
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise ConfigError(
                f"{folder / JOURNAL}: damaged ({error}): name another folder with --folder"
            ) from None
        self.owners = owners
        self._begun: set[int] = set()
        self._pruned: set[int] = set()

    def total(self, wanted: int | None) -> int:
        """The total number of trials: `wanted`, or that of the last start, or 30."""
        if self.grid is not None:
            return len(self.grid)
        total = wanted or int(self.study.user_attrs.get("trials", _TRIALS))
        self.study.set_user_attr("trials", total)
        return total

    def missing(self, total: int) -> int:
        """How many of `total` trials are not trained yet."""
        return len(self._interrupted()) + max(total - len(self._frozen()), 0)

    def running_elsewhere(self) -> list[int]:
        """The numbers of the trials that other processes are training."""
        lost = {*self._interrupted(), *self._begun}
        running = [trial.number for trial in self._frozen() if not trial.state.is_finished()]
        return [number for number in running if number not in lost]

    def claim_final(self) -> bool:
        """Whether all trials are done, and this process is to train the best configuration."""
        if self.owners is None:
            return True
        with self.owners.claim():
            owner = self.study.user_attrs.get("final")
            if self.running_elsewhere() or owner in self.owners.alive() - {self.owners.name}:
                return False
            self.study.set_user_attr("final", self.owners.name)
            return True

    def _interrupted(self) -> list[int]:
        """The trials that nobody trains any more, by number."""
        alive = set() if self.owners is None else self.owners.alive()
        return [
            trial.number
            for trial in self._frozen()
            if not trial.state.is_finished()
            and trial.number not in self._begun
            and trial.user_attrs.get("owner") not in alive
        ]

    def trials(self) -> list[Trial]:
        """All trials by number."""
        return [self._trial(frozen) for frozen in self._frozen()]

    def ranked(self) -> list[Trial]:
        """The trials, best first, by the objective, then by loss, then by number.

        Trials that were not completed come last.
        """
        sign = -1 if OBJECTIVES[self.objective] == "maximize" else 1

        def key(trial: Trial) -> tuple[float, ...]:
            kept = trial.outcome.kept if trial.outcome else None
            if kept is None:
                return STATES.index(trial.state), math.inf, math.inf, trial.number
            value, loss = getattr(kept, self.objective), kept.val_loss
            return STATES.index(trial.state), sign * value, loss or 0.0, trial.number

        return sorted(self.trials(), key=key)

    def next(self, total: int) -> Trial | None:
        """The next of `total` trials, interrupted ones first; None if there is none.

        A trial that needs no training is returned as finished: one whose settings contradict each
        other, or with the same point as an earlier complete trial, whose outcome it gets.
        """
        with nullcontext() if self.owners is None else self.owners.claim():
            trial = self._next(total)
            if trial is not None and trial.outcome is None:
                self._begun.add(trial.number)
                if self.owners is not None:
                    self._open(trial.number).set_user_attr("owner", self.owners.name)
            return trial

    def _next(self, total: int) -> Trial | None:
        interrupted = self._interrupted()
        number = interrupted[0] if interrupted else len(self._frozen())
        trials = self.trials()
        if number == len(trials):
            if number >= total:
                return None
            trials.append(self._propose(number))
        trial = trials[number]
        try:
            configure(self.base, trial.point)
        except ConfigError as error:
            return self._store(number, Outcome(reason=str(error)), "invalid")
        for other in trials:
            if other.state == "complete" and other.point == trial.point and other.outcome:
                reason = f"as trial {other.number}"
                repeated = dataclasses.replace(other.outcome, seconds=0.0, reason=reason)
                return self._store(number, repeated)
        return trial

    def report(self, number: int, record: Record) -> bool:
        """Store a record of a running trial; returns whether to stop the trial."""
        frozen, value = self._frozen()[number], getattr(record, self.objective)
        if frozen.state.is_finished():
            return True  # by another process, which took this one for dead
        if record.epoch not in frozen.intermediate_values:
            self._open(number).report(value, record.epoch)
            frozen = self._frozen()[number]
        # A resumed trial is judged by the same values as the first time.
        known = copy.copy(frozen)
        known.intermediate_values = {
            epoch: value
            for epoch, value in frozen.intermediate_values.items()
            if epoch <= record.epoch
        }
        last = record.epoch >= configure(self.base, self._trial(frozen).point).epochs
        stop = not last and self.study.pruner.prune(self.study, known)
        if stop:
            self._pruned.add(number)
        return stop

    def finish(self, number: int, outcome: Outcome, state: str = "") -> Trial:
        """Store the outcome of a trial, unless another process has done so meanwhile."""
        with nullcontext() if self.owners is None else self.owners.claim():
            frozen = self._frozen()[number]
            if frozen.state.is_finished():
                return self._trial(frozen)
            return self._store(number, outcome, state)

    def _store(self, number: int, outcome: Outcome, state: str = "") -> Trial:
        """`finish`, of a trial that no other process may finish meanwhile."""
        from optuna.trial import TrialState

        value = getattr(outcome.kept, self.objective) if outcome.kept else None
        if value is not None and not math.isfinite(value):
            reason = f"training diverged: {self.objective} is {value}"
            outcome, value = dataclasses.replace(outcome, kept=None, reason=reason), None
        self._open(number).set_user_attr("outcome", dataclasses.asdict(outcome))
        if state == "invalid" or (value is not None and number in self._pruned):
            # Invalid settings are stored as pruned, so that TPE avoids them.
            self.study.tell(number, state=TrialState.PRUNED)
        elif value is None:
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, value)
        return self._trial(self._frozen()[number])

    def _propose(self, number: int) -> Trial:
        """A new trial, stored in one step."""
        import optuna

        if self.grid is not None:
            values = self.grid[number]
            params = {key: axis.stored(values[key]) for key, axis in self.space.items()}
        else:
            seed = random.key(self.base.seed, f"trial {number}") % 2**32
            with without_warnings():  # `multivariate` and `constant_liar` are experimental
                sampler: optuna.samplers.BaseSampler = (
                    optuna.samplers.RandomSampler(seed)
                    if self.sampler == "random"
                    # constant_liar: running trials count as bad, so that parallel jobs get
                    # other points.
                    else optuna.samplers.TPESampler(
                        seed=seed, multivariate=True, constant_liar=True
                    )
                )
            scratch = optuna.create_study(sampler=sampler, direction=OBJECTIVES[self.objective])
            scratch.add_trials(self._frozen())
            params = scratch.ask(self.distributions).params
        self.study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=params,
                distributions=self.distributions,
            )
        )
        return self._trial(self._frozen()[number])

    def _frozen(self) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _open(self, number: int) -> optuna.trial.Trial:
        import optuna

        return optuna.trial.Trial(self.study, self._frozen()[number]._trial_id)

    def _trial(self, frozen: optuna.trial.FrozenTrial) -> Trial:
        point = {key: axis.value(frozen.params[key]) for key, axis in self.space.items()}
        if not frozen.state.is_finished():
            return Trial(frozen.number, point, "running", None)
        about = frozen.user_attrs["outcome"]
        outcome = Outcome(**about | {"kept": Record(**about["kept"]) if about["kept"] else None})
        state = {"COMPLETE": "complete", "FAIL": "failed"}.get(frozen.state.name, "pruned")
        if state == "complete" and outcome.reason:
            state = "repeated"
        if state == "pruned" and outcome.kept is None:
            state = "invalid"
        return Trial(frozen.number, point, state, outcome)


def import_optuna() -> None:
    """Import Optuna and silence its log. Raises `ConfigError` where it is not installed."""
    try:
        import optuna
        import optuna.storages.journal
    except ImportError:
        raise ConfigError("a search needs Optuna 4 or later: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
