"""The trials of a search: an Optuna study in a folder of its own, which outlives its process.

Optuna chooses, stores and prunes. Its journal is a text file to which every change is one
appended and synced line, so all that a killed search can leave behind is a torn last line,
and the next start cuts that off.

What a trial tries is drawn by a fresh sampler, seeded from `(seed, trial number)`, on a copy
of the study, and stored in one piece. So a search that goes on proposes what it would have
proposed without the interruption: always so for grid and random; for TPE, which learns from
the trials that have ended, where these are the same, hence always with one job.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xpnet import random
from xpnet._files import lock, write_atomically
from xpnet.config import TrainConfig, make
from xpnet.errors import ConfigError
from xpnet.training.history import Record
from xpnet.tune.space import Range, Space, configure, grid_points
from xpnet.tune.workers import Outcome
from xpnet.utils.toml import read_toml

if TYPE_CHECKING:
    import optuna

JOURNAL, SETTINGS = "trials.journal", "search.toml"
OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "val_accuracy": "maximize",
    "val_loss": "minimize",
}
STATES = ("complete", "repeated", "pruned", "failed", "invalid", "running")
_TRIALS = 30
_LEARNING = 5
"""Complete trials before any is pruned."""


@dataclass(frozen=True)
class Trial:
    """One point of the space, and how its training ended; no outcome: not yet.

    `state`: complete, repeated (complete, by another trial's training), pruned (stopped early),
    failed, invalid (its settings contradict each other, so it was not trained) or running.
    """

    number: int
    point: dict[str, Any]
    state: str
    outcome: Outcome | None


class Search:
    """The trials of one space, kept in `folder`, which is `claimed` by this process.

    `objective`: the field of the kept record that ranks trials, `val_accuracy` (the higher the
    better) or `val_loss` (the lower). Random and TPE trials whose best value so far is worse
    than the median of the others at the same epoch are stopped: after 5 complete trials, from
    a quarter of the epochs on, and not where `epochs` itself is searched, since schedules of
    different lengths cannot be compared half way.
    """

    def __init__(
        self, folder: Path, space: Space, base: TrainConfig, sampler: str, objective: str
    ) -> None:
        import_optuna()
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.space, self.base, self.sampler, self.objective = space, base, sampler, objective
        self.grid: list[dict[str, Any]] | None = None
        if sampler == "grid":
            self.grid = grid_points(space, base)
            self.space = {k: a.grid() if isinstance(a, Range) else a for k, a in space.items()}
        self.distributions = {key: axis.distribution() for key, axis in self.space.items()}
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.grid is None and "epochs" not in space:
            pruner = optuna.pruners.MedianPruner(_LEARNING, max(2, -(-base.epochs // 4)))
        try:
            self.study = optuna.create_study(
                study_name="search",
                storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
                sampler=optuna.samplers.RandomSampler(),
                pruner=pruner,
                direction=OBJECTIVES[objective],
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise ConfigError(
                f"{folder / JOURNAL}: damaged ({error}): name another folder with --folder"
            ) from None
        self._cut_off = [trial.number for trial in self.trials() if trial.state == "running"]
        self._stopped: set[int] = set()

    def total(self, wanted: int | None) -> int:
        """How many trials there shall be: `wanted`, or what was wanted before, or 30."""
        if self.grid is not None:
            return len(self.grid)
        total = wanted or int(self.study.user_attrs.get("trials", _TRIALS))
        self.study.set_user_attr("trials", total)
        return total

    def missing(self, total: int) -> int:
        """How many of `total` trials are to be trained yet."""
        return len(self._cut_off) + max(total - len(self._frozen()), 0)

    def trials(self) -> list[Trial]:
        """All trials by number."""
        return [self._trial(frozen) for frozen in self._frozen()]

    def ranked(self) -> list[Trial]:
        """The best first: the objective, a tie goes to the lower loss, then to the earlier.

        Trials that were not completed come after all others.
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
        """The next of `total` trials, those that were cut off first; None: there is none.

        One that needs no training has ended already: settings that contradict each other, or
        the same point as an earlier complete trial, whose outcome it shares.
        """
        number = self._cut_off.pop(0) if self._cut_off else len(self._frozen())
        trials = self.trials()
        if number == len(trials):
            if number >= total:
                return None
            trials.append(self._propose(number))
        trial = trials[number]
        try:
            configure(self.base, trial.point)
        except ConfigError as error:
            return self.finish(number, Outcome(reason=str(error)), "invalid")
        for other in trials:
            if other.state == "complete" and other.point == trial.point and other.outcome:
                reason = f"as trial {other.number}"
                return self.finish(
                    number, dataclasses.replace(other.outcome, seconds=0.0, reason=reason)
                )
        return trial

    def report(self, number: int, record: Record) -> bool:
        """Note a record of a running trial; whether the trial shall stop there."""
        frozen, value = self._frozen()[number], getattr(record, self.objective)
        if record.epoch not in frozen.intermediate_values:
            self._open(number).report(value, record.epoch)
            frozen = self._frozen()[number]
        # A trial that was cut off is judged by what was known the first time.
        known = copy.copy(frozen)
        known.intermediate_values = {
            epoch: value
            for epoch, value in frozen.intermediate_values.items()
            if epoch <= record.epoch
        }
        last = record.epoch >= configure(self.base, self._trial(frozen).point).epochs
        stop = not last and self.study.pruner.prune(self.study, known)
        if stop:
            self._stopped.add(number)
        return stop

    def finish(self, number: int, outcome: Outcome, state: str = "") -> Trial:
        """Note how a trial ended."""
        from optuna.trial import TrialState

        value = getattr(outcome.kept, self.objective) if outcome.kept else None
        if value is not None and not math.isfinite(value):
            reason = f"training left the finite numbers: {self.objective} is {value}"
            outcome, value = dataclasses.replace(outcome, kept=None, reason=reason), None
        self._open(number).set_user_attr("outcome", dataclasses.asdict(outcome))
        if state == "invalid" or (value is not None and number in self._stopped):
            # Without a value too: TPE then keeps away from settings that contradict each other.
            self.study.tell(number, state=TrialState.PRUNED)
        elif value is None:
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, value)
        return self._trial(self._frozen()[number])

    def _propose(self, number: int) -> Trial:
        """A new trial, stored whole or not at all."""
        import optuna

        if self.grid is not None:
            values = self.grid[number]
            params = {key: axis.stored(values[key]) for key, axis in self.space.items()}
        else:
            seed = random.key(self.base.seed, f"trial {number}") % 2**32
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler: optuna.samplers.BaseSampler = (
                    optuna.samplers.RandomSampler(seed)
                    if self.sampler == "random"
                    # constant_liar: trials that are running count as bad, so that another
                    # job is sent elsewhere.
                    else optuna.samplers.TPESampler(
                        seed=seed, multivariate=True, constant_liar=True
                    )
                )
            rehearsal = optuna.create_study(sampler=sampler, direction=OBJECTIVES[self.objective])
            rehearsal.add_trials(self._frozen())
            params = rehearsal.ask(self.distributions).params
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
    """Optuna, without its chatter. Raises `ConfigError` where it is not installed."""
    try:
        import optuna
        import optuna.storages.journal
    except ImportError:
        raise ConfigError("a search needs Optuna 4 or later: pip install 'xpnet[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@contextmanager
def claimed(folder: Path, settings: str) -> Iterator[None]:
    """Have `folder` alone, as that of a search with these settings (TOML), new or going on.

    Raises `ConfigError` when the folder cannot be made, holds something else, is in use by
    another process, or belongs to a search with other settings; says what differs.
    """
    with lock(folder, "folder", "search"):
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        if SETTINGS not in names and names - {JOURNAL}:
            raise ConfigError(
                f"folder: {folder} exists and holds no search: name another with --folder"
            )
        # Left behind by a killed process: only the process with the folder's lock makes them.
        for left in folder.glob(f"{JOURNAL}.*"):
            left.unlink()
        with (folder / JOURNAL).open("ab") as journal:
            journal.truncate((folder / JOURNAL).read_bytes().rfind(b"\n") + 1)
        if SETTINGS in names:
            _compare(folder, read_toml(folder / SETTINGS), tomllib.loads(settings))
        else:
            write_atomically(folder / SETTINGS, settings.encode())
        yield


def _compare(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    def flat(settings: dict[str, Any]) -> dict[str, Any]:
        space = settings.get("space", {})
        # A setting that an older xpnet did not know has had its default.
        base = tomllib.loads(make({}).to_toml()) | settings.get("base", {})
        return {
            **{key: value for key, value in settings.items() if not isinstance(value, dict)},
            **{f"space.{key}": value for key, value in space.items()},
            "order of space": list(space),
            **{f"base.{key}": value for key, value in base.items()},
        }

    before, now = flat(there), flat(here)
    wrong = [
        f"{key} {before.get(key, 'not set')} there, {now.get(key, 'not set')} here"
        for key in before | now
        if before.get(key) != now.get(key)
    ]
    if wrong:
        raise ConfigError(
            f"folder: {folder} belongs to another search ({'; '.join(wrong)}): name another with "
            f"--folder"
        )
