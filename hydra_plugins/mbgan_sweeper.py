"""Hydra sweepers of mbgan.train. Hydra takes plugins from this package only."""

import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from mbgan.runs import Run
from mbgan.sweeps import check_same_config, job_name, outcome, quoted
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
        """Return what varies and what is the same, of the config and of the command line."""
        assert self.hydra_context is not None, "Hydra sets it up"
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return parser.parse_overrides([*self._parse_config(), *arguments])

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
        results = self.launcher.launch([[*left[n], *places[n]] for n in left], initial_job_idx=0)
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
        self.folder.mkdir(parents=True, exist_ok=True)
        storage = self.storage or f"sqlite:///{self.folder}/study.db"
        study = optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True)
        cut_off = study.get_trials(states=[optuna.trial.TrialState.RUNNING])
        failed_before = len(study.get_trials(states=[optuna.trial.TrialState.FAIL]))
        failed: dict[str, str] = {}
        while True:
            batch = [(t.number, t.params) for t in cut_off[: self.n_jobs]]
            del cut_off[: self.n_jobs]
            left = self.n_trials + failed_before - len(study.trials)
            while not cut_off and len(batch) < self.n_jobs and left > 0:
                study.sampler = self.sampler(seed=self.seed + len(study.trials))
                trial = study.ask(space)
                batch.append((trial.number, trial.params))
                left -= 1
            if not batch:
                break
            place = f"callbacks.pruning.storage={quoted(storage)}"
            jobs = {
                f"trial{number:04d}": [
                    *(*same, *(f"{key}={value}" for key, value in params.items()), place),
                    f"callbacks.pruning.trial={number}",
                ]
                for number, params in batch
            }
            failed |= self.run_jobs(jobs)
            for (number, _), name in zip(batch, jobs, strict=True):
                record = outcome(Run(self.folder / name))
                if "objective" in record:
                    value = record["objective"]
                    state = None if value is not None else optuna.trial.TrialState.PRUNED
                    study.tell(number, value, state)
                elif record["status"] != "interrupted":
                    study.tell(number, state=optuna.trial.TrialState.FAIL)
        self._summarize(study)
        self.conclude(failed)

    def _summarize(self, study: Any) -> None:
        counts = Counter(trial.state.name.lower() for trial in study.trials)
        print(", ".join(f"{n} {state}" for state, n in counts.items()), file=sys.stderr)
        if counts["complete"]:
            best = study.best_trial
            settings = " ".join(f"{key}={value}" for key, value in best.params.items())
            folder = self.folder / f"trial{best.number:04d}"
            print(f"best KID {best.value:.4g}: {settings}\n{folder}", file=sys.stderr)


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
