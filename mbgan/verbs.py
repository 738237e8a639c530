"""What every verb shares: where its config lies, and how it ends."""

import ctypes
import difflib
import os
import platform
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mbgan.failures import in_one_sentence
from mbgan.runs import SIGNALS, Run, rank
from mbgan.sweeps import sweep_folder

FAILED, INTERRUPTED = 1, 3  # exit codes; 2, a wrong command line, is argparse's
EVERY_S = 0.5  # between two interrupts of a verb that did not hear the first
USER_ERRORS = (ValueError, OSError, FloatingPointError, HydraException, OmegaConfBaseException)


def conf_dir() -> Path:
    """Return the folder of configs: inside an installed package, beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "conf"


def register_resolvers() -> None:
    """Teach configs the functions that name a new run folder, or find an old one."""
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)
    OmegaConf.register_new_resolver("new_or_resumed", new_or_resumed, replace=True)
    OmegaConf.register_new_resolver("config_folder", config_folder, replace=True)


def new_or_resumed(resume: str | None, forecast: bool, new: str) -> str:
    """Return the run folder: the resumed one, which must be there, or a new one.

    A forecast, which keeps nothing, has a new one too.

    Raises:
        ValueError: if ranks that torchrun started would each name a folder of their own.
    """
    if resume is None:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            raise ValueError("under torchrun, hydra.run.dir=DIR must name one folder for all ranks")
        return new
    Run(Path(resume).expanduser()).require_config()
    return new if forecast else str(Path(resume).expanduser())


def config_folder(resume: str | None, forecast: bool, folder: str, now: str) -> str:
    """Return where in the run folder Hydra writes what was asked for; a resume has its own.

    Raises:
        ValueError: if a new run would be written over an old one.
    """
    if resume is not None and not forecast:
        return f".hydra/resumed_{now}"
    if Run(folder).status.exists():
        raise ValueError(
            f"hydra.run.dir must be a new folder, got {folder}, which holds a run; "
            f"go on with resume={folder}, or name another"
        )
    return ".hydra"


def verb(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Make a Hydra app of a function, with errors that a user can mend told in one line.

    Args:
        name: of the verb, and of its config in conf/.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        asked = os.environ.get("HYDRA_FULL_ERROR", "0") != "0"  # the user's wish for tracebacks

        @wraps(function)
        def task(cfg: DictConfig) -> Any:
            register_resolvers()  # a launcher may have brought it into another process
            with full_errors(asked):
                try:
                    check_numbers(name)
                    keep_freed_memory()
                    with in_one_sentence():
                        return function(cfg)
                except KeyboardInterrupt:
                    discard_new_folder()
                    raise
                except USER_ERRORS as error:
                    discard_new_folder()
                    if asked or HydraConfig.get().mode == RunMode.MULTIRUN:
                        raise  # a sweep goes on with its other jobs
                    sys.exit(report(error))

        @wraps(function)
        def main() -> Any:
            register_resolvers()
            app = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)
            words = sys.argv[1:]
            flags = {word for word in words if word.startswith("-")}
            with interruptible():
                try:
                    if flags and flags <= {"--help", "-h"}:
                        overrides = [word for word in words if word not in flags]
                        print(help_page(name, str(function.__doc__), overrides))
                        return None
                    with full_errors(True):  # Hydra raises its own errors rather than print them
                        return app(task)()
                except USER_ERRORS as error:
                    if asked:
                        raise
                    sys.exit(report(error))

        return main

    return decorate


class Interrupt(KeyboardInterrupt):
    """An interrupt that is met.

    Where a KeyboardInterrupt itself passes C code that runs Python, as modules do that are being
    loaded, Python ends by SIGINT in the end, whatever became of it.
    """


@contextmanager
def interruptible() -> Iterator[None]:
    """Let every signal that asks for an end interrupt as Ctrl-C does, and end with INTERRUPTED.

    A second Ctrl-C ends the process at once. Trainings save first: `mbgan.callbacks.guard`.
    Compiled code loses an interrupt now and then, or makes an ImportError of it (numpy's
    comparison of types does, a module that is being loaded): it is raised again until it arrives.
    """
    before, heard = {number: signal.getsignal(number) for number in SIGNALS}, list[int]()

    def interrupt(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL if each == signal.SIGINT else signal.SIG_IGN)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, insist)
            signal.setitimer(signal.ITIMER_REAL, EVERY_S, EVERY_S)
        raise Interrupt

    def insist(number: int, frame: FrameType | None) -> None:
        error = sys.exc_info()[1]
        while error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
            error = error.__context__
        if error is None:  # nothing is being unwound
            raise Interrupt

    for number in SIGNALS:
        if before[number] != signal.SIG_IGN:  # as of a job in the background, or under nohup
            signal.signal(number, interrupt)
    try:
        yield
    except BaseException as end:
        # Lightning makes a SystemExit of an interrupt, others what not.
        if not heard and not isinstance(end, KeyboardInterrupt):
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        if heard and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def help_page(name: str, docstring: str, overrides: list[str]) -> str:
    """Return what --help says: what the verb does, the groups it chooses from, and its settings.

    Hydra's own page takes a second, in which it copies its configs for every group there is, and
    offers the groups of other verbs too.
    """
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose(name, overrides, return_hydra_config=True)
    groups = {key.split("@")[0] for key in cfg.hydra.runtime.choices}
    choices = []
    for group in sorted(group for group in groups if not group.startswith("hydra/")):
        files = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
        choices.append(f"  {group}: {', '.join(files)}")
    lines = [docstring.splitlines()[0], ""]
    if choices:
        lines += [f"Groups, as in python -m mbgan.{name} GROUP=CHOICE:", *choices, ""]
    OmegaConf.set_readonly(cfg, False)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    lines.append("Settings, as in KEY=VALUE or KEY.PART=VALUE; conf/ says what they mean:")
    lines += ["  " + line for line in OmegaConf.to_yaml(cfg).splitlines()]
    return "\n".join([*lines, "", "Hydra's own flags: --hydra-help"])


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next layer rather than give it back to the system.

    Feature extraction on a CPU frees and asks for the same large blocks at every layer: fresh pages
    for them take two fifths of its time; of training they take up to a tenth. Peak memory grows
    by up to a fifth, as blocks of one size leave gaps for those of another. A user's own settings
    of malloc hold.
    """
    own = any(key.startswith("MALLOC_") for key in os.environ)
    own = own or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] == "glibc" and not own:
        mallopt, trim_threshold, mmap_max = ctypes.CDLL(None).mallopt, -1, -4  # as in malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)  # the largest size there is: never


@contextmanager
def full_errors(wanted: bool) -> Iterator[None]:
    """Set or clear HYDRA_FULL_ERROR for a while; processes started meanwhile inherit it."""
    before = os.environ.pop("HYDRA_FULL_ERROR", None)
    if wanted:
        os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


def report(error: BaseException) -> int:
    """Print an error as one line on stderr and return the exit code."""
    where = f" on rank {rank()}" if rank() > 0 else ""
    print(f"error{where}: {one_line(error)}", file=sys.stderr)
    return FAILED


def one_line(error: BaseException) -> str:
    """Return what a user needs to know of an error: its first cause, in one line."""
    message = str(error)
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown:
        name = unknown[1]
        close = difflib.get_close_matches(name, known_settings(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"no setting is called {name!r}{hint} (--help lists them all)"
    plugin = re.search(r"Could not find 'hydra/launcher/(joblib|submitit)", message)
    if plugin:
        return f"hydra/launcher={plugin[1]} needs a plugin: pip install 'mbgan[{plugin[1]}]'"
    while isinstance(error.__cause__, USER_ERRORS) and not isinstance(error, OSError):
        error = error.__cause__  # an OSError with a cause is already ours
    message = str(error)
    missing = re.search(r"Missing mandatory value: (\S+)", message)
    if missing:
        name = re.sub(r"^.*\.(?=extractor\.)", "", missing[1])  # metrics.extractor stands for it
        return f"{name} must be given, as in {name}=VALUE (--help says what it is)"
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        message = error.strerror  # a sentence of ours, without its number
    message = re.sub(r"^\w+ raised while resolving interpolation: ", "", message)  # OmegaConf's
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("full_key:", "object_type="))]
    return " ".join(lines) or type(error).__name__


def known_settings() -> list[str]:
    """Return the names of settings and groups, dotted, as they stand in the config files."""
    names: set[str] = set()

    def add(prefix: str, node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            names.add(f"{prefix}{key}")
            add(f"{prefix}{key}.", value)

    for path in conf_dir().rglob("*.yaml"):
        group = path.parent.relative_to(conf_dir()).as_posix()
        at_root = group in (".", "model", "experiment", "show")
        add("" if at_root else f"{group}.", OmegaConf.to_container(OmegaConf.load(path)))
        names.add(group)
    return sorted(name for name in names if not name.startswith(("defaults", "hydra", ".")))


def check_numbers(name: str) -> None:
    """Refuse words and fractions where the config has a (whole) number; YAML takes anything.

    Raises:
        ValueError: if an override does.
    """
    overrides = HydraConfig.get().overrides.task
    given = [o.split("=", 1) for o in overrides if "=" in o and o[0] not in "+~"]
    groups = [f"{key}={value}" for key, value in given if (conf_dir() / key).is_dir()]
    default, asked = (
        OmegaConf.to_container(hydra.compose(name, words), resolve=False)
        for words in (groups, list(overrides))
    )
    for key, _ in given:
        before, now = default, asked
        for part in key.split("."):
            before, now = (x.get(part) if isinstance(x, dict) else None for x in (before, now))
        if type(before) in (int, float) and isinstance(now, str):
            raise ValueError(f"{key} must be a number, got {now!r}")
        if type(before) is int and type(now) is float:
            raise ValueError(f"{key} must be a whole number, got {now} (10_000 is one, 1e4 is not)")


def discard_new_folder() -> None:
    """Remove the folder that Hydra made for a run that never began, or a forecast."""
    config = HydraConfig.get()
    folder = Path(config.runtime.output_dir)
    # First, as output_subdir refuses old folders. Other verbs and ranks have none of their own.
    if Run(folder).status.exists() or config.output_subdir != ".hydra":
        return
    for name in ("config", "hydra", "overrides"):
        (folder / ".hydra" / f"{name}.yaml").unlink(missing_ok=True)
    for name in (f"{config.job.name}.log", ".lock"):
        (folder / name).unlink(missing_ok=True)
    inside = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
    folders = [*inside, folder]  # the innermost first: loggers have made some
    if folder.parent.parent.name == "runs":  # our own layout, and no folder of the user's
        folders.append(folder.parent)
    for empty in folders:
        try:
            empty.rmdir()
        except OSError:  # not empty: somebody's files
            continue
