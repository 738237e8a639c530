"""Hydra sweepers of mbgan.train. Hydra takes plugins from this package only."""

import sys
from collections.abc import Sequence
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

    def run_jobs(self, jobs: dict[str, Sequence[str]]) -> dict[str, str]:
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
