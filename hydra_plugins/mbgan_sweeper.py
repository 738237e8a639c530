"""Hydra sweepers of mbgan.train. Hydra takes plugins from this package only."""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from mbgan.runs import Run
from mbgan.sweeps import check_same_config, job_name, outcome, quoted, watched
from mbgan.verbs import FAILED, one_line

log = logging.getLogger("mbgan.sweeps")
STUDY = "mbgan"  # in its own database; conf/sweep/optuna.yaml names it to the jobs


class GridSweeper(BasicSweeper):
    """Trains every combination that is not there yet, each in a folder named by what varies.

    Args:
        params: what varies, beside the command line, which wins.
    """

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs, say what failed, and exit with 1 if any did."""
        overrides = self.parse(arguments)
        varying = {o.get_key_element() for o in overrides if o.is_sweep_override()}
        jobs = {
            job_name([word for word in job if word.split("=", 1)[0] in varying]): job
            for job in self.split_arguments(overrides, None)[0]
        }
        failed = self.run_jobs(jobs)
        print(f"{len(jobs) - len(failed)} of {len(jobs)} jobs done: {self.folder}", file=sys.stderr)
        self.conclude(failed)

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        assert self.config is not None, "Hydra sets it up"
        return Path(self.config.hydra.sweep.dir).absolute()

    def parse(self, arguments: list[str]) -> list[Override]:
        """Return what varies and what is the same, of the config and of the command line.

        Raises:
            ValueError: if a forecast is asked for.
        """
        assert self.hydra_context is not None, "Hydra sets it up"
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        if any(o.key_or_group == "forecast" and o.value() is not False for o in overrides):
            raise ValueError(
                "forecast must be false in a sweep, as runs side by side slow one another; ask for "
                "one run, without -m or sweep=, and multiply"
            )
        return overrides

    def run_jobs(self, jobs: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Train the jobs that are not over, and return the reason of each that failed.

        Args:
            jobs: overrides by the job's folder.

        Raises:
            ValueError: if a job was begun with another config.
        """
        assert self.launcher is not None, "Hydra sets it up"
        runs = {name: Run(self.folder / name) for name in jobs}
        for name, overrides in jobs.items():
            check_same_config(runs[name], self._compose(overrides))
        left = {name: job for name, job in jobs.items() if "objective" not in outcome(runs[name])}
        log.info("%d jobs to train, %d done before", len(left), len(jobs) - len(left))
        if not left:
            return {}
        places = {  # no .hydra of Hydra's own: it would replace what the run wrote there
            name: [
                *(f"hydra.sweep.dir={quoted(self.folder)}", f"hydra.sweep.subdir={quoted(name)}"),
                "hydra.output_subdir=null",
            ]
            for name in left
        }
        asked = [[*left[n], *places[n]] for n in left]
        try:
            with watched(runs):
                results = self.launcher.launch(asked, initial_job_idx=0)
        except RuntimeError as without:
            if 'Could not detect "srun"' not in str(without):
                raise
            raise ValueError(
                "trainer=slurm and submitit_slurm need a machine that can submit SLURM jobs, and "
                "there is no srun here; use another trainer or hydra/launcher"
            ) from None
        failed = {}
        for name, result in zip(left, results, strict=True):
            if result.status != JobStatus.COMPLETED:
                error = result._return_value
                failed[name] = one_line(error)
                if outcome(runs[name]).get("status") != "interrupted":
                    runs[name].record_failure(failed[name])
        return failed

    def conclude(self, failed: dict[str, str]) -> None:
        """List what failed, and exit with 1 if anything did."""
        if failed:
            print(f"error: {len(failed)} failed; the same command tries again:", file=sys.stderr)
            for name, reason in failed.items():
                print(f"  {self.folder / name}: {reason}", file=sys.stderr)
            sys.exit(FAILED)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        assert self.hydra_context is not None, "Hydra sets it up"
        assert self.config is not None, "Hydra sets it up"
        loader = self.hydra_context.config_loader
        cfg = loader.load_sweep_config(self.config, list(overrides))
        OmegaConf.set_readonly(cfg, False)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg


class OptunaSweeper(GridSweeper):
    """Looks for the settings of lowest KID with Optuna; a second call goes on with the study.

    Hydra's own Optuna sweeper wants Optuna 2 and can neither prune nor go on with a trial that
    was cut off.

    Args:
        params: what varies, beside the command line, which wins: choice, range or interval.
        n_trials: of the study, at least 1; later calls do not count those that failed.
        n_jobs: trials that are asked for, and handed to the launcher, at a time, at least 1.
        seed: of the sampler; a study that was cut off asks for what it would have asked for.
        storage: URL of the study's database; None for study.db in the sweep's folder.
        sampler: makes an Optuna sampler of a seed.

    Raises:
        ValueError: if n_trials or n_jobs is under 1.
    """

    def __init__(
        self,
        params: dict[str, str] | None,
        n_trials: int,
        n_jobs: int,
        seed: int,
        storage: str | None,
        sampler: Callable[..., Any],
    ) -> None:
        super().__init__(params)
        for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            if value < 1:
                raise ValueError(f"hydra.sweeper.{name} must be at least 1, got {value}")
        self.n_trials, self.n_jobs, self.seed = n_trials, n_jobs, seed
        self.storage, self.sampler = storage, sampler

    def sweep(self, arguments: list[str]) -> None:
        """Ask, train and tell until the study has its trials; exit with 1 if any failed."""
        try:
            import optuna
        except ImportError:
            raise ValueError("sweep=optuna needs Optuna: pip install 'mbgan[optuna]'") from None

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        overrides = self.parse(arguments)
        same = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        space = {o.get_key_element(): distribution(o) for o in overrides if o.is_sweep_override()}
        prunes = OmegaConf.select(self._compose(same), "callbacks.pruning") is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        storage = self.storage or f"sqlite:///{self.folder}/study.db"
        study = optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True)

        def overrides_of(number: int, params: dict[str, Any]) -> list[str]:
            words = [*same, *(f"{key}={value}" for key, value in params.items())]
            if prunes:
                where = f"callbacks.pruning.storage={quoted(storage)}"
                words += [where, f"callbacks.pruning.trial={number}"]
            return words

        failed: dict[str, str] = {}
        for batch in self._batches(study, space):
            jobs = {_trial(number): overrides_of(number, params) for number, params in batch}
            failed |= self.run_jobs(jobs)
            for number, _ in batch:
                self._tell(study, number)
        self._summarize(study)
        self.conclude(failed)

    def _batches(self, study: Any, space: dict[str, Any]) -> Iterator[list[tuple[int, Any]]]:
        """Yield number and settings of the trials that were cut off, then of new ones."""
        states = Counter(trial.state.name for trial in study.trials)
        cut_off = [(t.number, t.params) for t in study.trials if t.state.name == "RUNNING"]
        end = self.n_trials + states["FAIL"]
        while cut_off or len(study.trials) < end:
            batch, cut_off = cut_off[: self.n_jobs], cut_off[self.n_jobs :]
            while not batch or (len(batch) < self.n_jobs and len(study.trials) < end):
                # By its number: a study that was cut off would else ask for its first ones again.
                study.sampler = self.sampler(seed=self.seed + len(study.trials))
                trial = study.ask(space)
                batch.append((trial.number, trial.params))
            yield batch

    def _tell(self, study: Any, number: int) -> None:
        from optuna.trial import TrialState

        record = outcome(Run(self.folder / _trial(number)))
        if "objective" in record:
            value = record["objective"]
            study.tell(number, value, TrialState.PRUNED if value is None else None)
        elif record["status"] != "interrupted":  # those go on with the next call
            study.tell(number, state=TrialState.FAIL)

    def _summarize(self, study: Any) -> None:
        counts = Counter(trial.state.name.lower() for trial in study.trials)
        print(", ".join(f"{n} {state}" for state, n in counts.items()), file=sys.stderr)
        if counts["complete"]:
            best = study.best_trial
            settings = " ".join(f"{key}={value}" for key, value in best.params.items())
            print(f"best KID {best.value:.4g}: {settings}", file=sys.stderr)
            print(self.folder / _trial(best.number), file=sys.stderr)


def _trial(number: int) -> str:
    return f"trial{number:04d}"


def distribution(override: Override) -> Any:
    """Return Optuna's distribution for choice(...), range(...), interval(...) or values.

    tag(log, interval(...)) is drawn on a logarithmic scale.
    """
    from optuna import distributions as d

    value: Any = override.value()
    if override.is_interval_sweep():
        low, high, log_scale = value.start, value.end, "log" in value.tags
        whole = isinstance(low, int) and isinstance(high, int)
        kind = d.IntDistribution if whole else d.FloatDistribution
        return kind(low, high, log=log_scale)
    words = list(override.sweep_string_iterator())
    if override.is_range_sweep() and isinstance(value.start, int) and isinstance(value.step, int):
        return d.IntDistribution(int(words[0]), int(words[-1]), step=value.step)
    return d.CategoricalDistribution(words)
