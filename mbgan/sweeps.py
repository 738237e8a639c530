"""Jobs of a sweep: where each lies, how it is trained, and what became of it."""

import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.live import Live
from rich.table import Table

from mbgan.documents import read_object
from mbgan.runs import SIGNALS, Run, write_text
from mbgan.saved import portable, read_settings, trusting

log = logging.getLogger(__name__)


def sweep_folder(overrides: Sequence[str]) -> str:
    """Return the folder of a sweep, the same whenever it is asked for again.

    Named by conf/sweep/ and the settings that vary; what is the same for all jobs enters as six
    digits of a hash, so that only jobs that belong together share a folder.

    Args:
        overrides: of the command line, as they stand there.

    >>> sweep_folder(["model=dcgan,wgan_gp", "seed=0,1"])
    'multirun/model-seed'
    >>> sweep_folder(["sweep=baselines", "batch_size=16"])
    'multirun/baselines-014221'
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    chosen = [str(o.value()) for o in parsed if o.key_or_group == "sweep"]
    varying = [_last(o.get_key_element()) for o in parsed if o.is_sweep_override()]
    same = sorted(
        str(o.input_line) for o in parsed if not o.is_sweep_override() and o.key_or_group != "sweep"
    )
    digits = [sha256("\n".join(same).encode()).hexdigest()[:6]] if same else []
    return "multirun/" + "-".join([*chosen, *varying, *digits])


def job_name(overrides: Sequence[str]) -> str:
    """Return the folder of a job below its sweep's: the values that vary, numbers with their key.

    Args:
        overrides: the settings that vary, as key=value.

    >>> job_name(["model=wgan_gp", "magnification=10x", "seed=0", "model.make_opt_g.lr=1e-4"])
    'wgan_gp-10x-seed0-lr1e-4'
    """
    words = []
    for key, value in (override.split("=", 1) for override in overrides):
        word = re.sub(r"[^\w.+-]+", "_", value).strip("_")
        says_itself = re.search(r"[a-z]", word, re.I) and not _is_yaml_scalar(word)
        words.append(word if says_itself else f"{_last(key)}{word}")
    return "-".join(words) or "job"


def _last(key: str) -> str:
    return re.split(r"[./]", key.lstrip("+~"))[-1]


def _is_yaml_scalar(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return word.lower() in ("true", "false", "null")
    return True


def quoted(value: object) -> str:
    """Return a value as Hydra's command line takes it whatever characters it has."""
    return QuotedString(text=str(value), quote=Quote.single).with_quotes()


def on_terminal() -> bool:
    """Tell whether a sweep is watched: as a line a job, so that what jobs say is in train.log."""
    return Console(stderr=True).is_terminal


def watched(runs: Mapping[str, Run]) -> AbstractContextManager[object]:
    """Show a line a job while jobs train, read from their folders; nothing but on a terminal.

    Args:
        runs: by job.
    """
    if not on_terminal():
        return nullcontext()
    console = Console(stderr=True)
    lines = max(1, console.height - 4)
    return Live(
        console=console, get_renderable=lambda: job_table(runs, lines), refresh_per_second=1
    )


def job_table(runs: Mapping[str, Run], height: int) -> Table:
    """Return a table of a sweep's jobs: state, images seen, last KID; those at work come first.

    Args:
        runs: by job.
        height: lines at most, at least 1.
    """
    order = ("running", "failed", "interrupted", "done", "pruned", "waiting")
    records = {name: outcome(run) for name, run in runs.items()}
    states = {
        name: "pruned" if record.get("pruned") else str(record.get("status", "waiting"))
        for name, record in records.items()
    }
    table = Table("job", "state", "images seen", "KID", box=None, header_style="bold")
    first = sorted(runs, key=lambda name: order.index(states[name]))[:height]
    for name in first:
        rows = runs[name].read_metrics()
        last: dict[str, Any] = rows[-1] if rows else {}
        kid = records[name].get("objective") or next(
            (value for key, value in last.items() if key.startswith("kid/")), None
        )
        seen = f"{last.get('images_seen', 0):,}"
        table.add_row(name, states[name], seen, "" if kid is None else f"{kid:.4g}")
    counts = Counter(states.values())
    table.caption = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
    return table


def check_same_config(run: Run, cfg: DictConfig) -> None:
    """Refuse to go on with a job that was begun with another config.

    Args:
        run: the job's folder.
        cfg: the job's config as it is composed now.

    Raises:
        ValueError: if a setting changed since the job's first checkpoint.
    """
    if not _asked(run).is_file() or not run.has("last"):
        return
    then, now = (_settings(c) for c in (read_settings(_asked(run)), cfg))
    for key in sorted(then.keys() & now.keys()):  # an update may have brought new ones
        if then[key] != now[key]:
            raise ValueError(
                f"{key} must be as when {run.folder} was begun, {then[key]}, got {now[key]}; name "
                "another hydra.sweep.dir, or remove that folder"
            )


def _asked(run: Run) -> Path:
    return run.config.with_name("asked.yaml")


def _settings(cfg: Any) -> dict[str, Any]:
    """Return the leaves of a config by their dotted names, interpolations as they stand."""
    leaves: dict[str, Any] = {}

    def add(name: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                add(f"{name}.{key}" if name else str(key), value)
        else:
            leaves[name] = node

    add("", OmegaConf.to_container(cfg, resolve=False))
    return leaves


def outcome(run: Run) -> dict[str, Any]:
    """Return a job's run.json with its `objective`, if it has one; empty before it began.

    A job is over when it was scored, or pruned: those have an `objective` (None when pruned).
    """
    record = read_object(run.status) if run.status.is_file() else {}
    if record.get("pruned"):
        record["objective"] = None
    elif record.get("status") == "done" and run.scores().is_file():
        scores = read_object(run.scores(), "scores", "extractor")
        try:
            record["objective"] = scores["scores"][f"kid/{scores['extractor']}"]["value"]
        except (LookupError, TypeError):
            raise ValueError(f"{run.scores()} must have a KID, got none; it is damaged") from None
    return record


def train_job(cfg: DictConfig, run: Run) -> float | None:
    """Train a job in processes of its own, and return its KID; None if pruned or not to be scored.

    Its own processes, so that neither environment nor seeds nor a process group goes from one
    job to the next, and started from its saved config, so that all its ranks train the same.
    What was cut off goes on from its last checkpoint.

    Args:
        cfg: the job's config, of mbgan.train.
        run: the job's folder.

    Raises:
        ValueError: if the job failed, with its own reason.
        KeyboardInterrupt: if somebody asked to stop; the job was saved.
    """
    check_same_config(run, cfg)
    if not run.has("last"):
        write_text(_asked(run), OmegaConf.to_yaml(cfg))
        write_text(run.config, OmegaConf.to_yaml(portable(cfg)))  # until the run writes its own
        hydra = OmegaConf.create({"hydra": HydraConfig.get()})  # as of a run alone: what was chosen
        write_text(run.config.with_name("hydra.yaml"), OmegaConf.to_yaml(hydra))
    if not on_terminal():
        log.info("%s: training", run.folder)
    words = ["-m", "mbgan.train", f"resume={quoted(run.folder)}", "hydra.output_subdir=null"]
    # What the user asked for is trusted, though it comes to the job in a saved config.
    environment = os.environ | trusting(cfg)
    devices = cfg.trainer.devices
    if devices * cfg.trainer.num_nodes > 1:
        where = rendezvous(cfg.trainer.num_nodes)
        words = ["-m", "torch.distributed.run", *where, f"--nproc-per-node={devices}", *words]
        # torchrun would give each rank one thread; Lightning's own launcher shares them out.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
        # SLURM may send one to torchrun, too: it is to wait for its ranks then, not to die.
        environment.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", ",".join(s.name for s in SIGNALS))
    reason = run_relayed([sys.executable, *words], environment)
    record = outcome(run)
    over = "objective" in record or (cfg.full_metrics is None and record.get("status") == "done")
    if reason is None and over:
        objective: float | None = record.get("objective")
        return objective
    if reason is None or record.get("status") != "interrupted":
        run.record_failure(reason := reason or "it ended without scores")
    raise ValueError(reason)


def rendezvous(num_nodes: int) -> list[str]:
    """Return torchrun's words on where the ranks of a job meet.

    Args:
        num_nodes: of the job.

    Raises:
        ValueError: if those are several, and SLURM did not give them.
    """
    if num_nodes == 1:
        return ["--standalone"]
    if (given := int(os.environ.get("SLURM_NNODES", 1))) != num_nodes:
        raise ValueError(
            f"trainer.num_nodes must be what SLURM gave this job, {given}, got {num_nodes}; use "
            "trainer=slurm, or torchrun --nnodes without a sweep"
        )
    from submitit import JobEnvironment

    job = JobEnvironment()
    port = 20_000 + int(job.job_id.split("_")[0]) % 10_000
    return [
        *(f"--nnodes={num_nodes}", f"--node-rank={job.node}"),
        *(f"--master-addr={job.hostnames[0]}", f"--master-port={port}"),
    ]


def run_relayed(command: Sequence[str], environment: dict[str, str]) -> str | None:
    """Run a command, passing on what it says on stderr, and return why it failed; None if not.

    On a terminal nothing is passed on: the table of jobs is there.

    A Ctrl-C here becomes one SIGTERM there, after which a run saves and ends; so does what submitit
    raises here when SLURM is about to end the job, which it has put back into the queue by then.
    """
    errors, last, relayed = list[str](), "", True
    with subprocess.Popen(  # noqa: S603 - of words, without a shell
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # a Ctrl-C reaches torchrun's ranks once, not twice
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    ) as process:
        assert process.stderr is not None, "it was asked for"
        try:
            for line in process.stderr:
                if found := re.match(r"error(?: on rank \d+)?: (.*)", line):
                    errors.append(found[1])
                # Of ranks that failed torchrun says, in thirty lines, no more than that.
                relayed = relayed and not re.match(r"[WE]\d+ .*torch/distributed/elastic", line)
                if relayed:
                    last = line.strip() or last
                if relayed and not on_terminal():
                    sys.stderr.write(line)
        except BaseException:
            process.terminate()
            sys.stderr.write(process.communicate()[1])
            raise
    if process.returncode == 0:
        return None
    return errors[0] if errors else f"exit code {process.returncode}: {last}"


def _end_with_parent() -> None:
    """Have Linux send SIGTERM when the sweep is killed, or a device would stay taken."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
