"""Compare runs: python -m mbgan.compare runs=DIR out=compared."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mbgan.saved import read_settings
from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("compare")
def main(cfg: DictConfig) -> None:
    """Write a ranking of runs, their curves, costs and images as one page, Markdown and CSV."""
    from mbgan.studies.report import write_report
    from mbgan.studies.run_table import find_runs, read_run

    given = list(cfg.runs) if isinstance(cfg.runs, ListConfig) else [cfg.runs]
    if not given:
        raise ValueError("runs must name at least one folder, got an empty list")
    folders = find_runs([Path(str(folder)).expanduser() for folder in given])
    runs = [read_run(folder, name, load) for folder, name in folders]
    out = Path(cfg.out).expanduser()
    found = write_report(runs, out, real_images=cfg.real_images)
    for part in found["sections"]:
        log.info("%s: %s", part["title"], part["verdict"])
    for run in found["runs"]:
        for note in run["notes"]:
            log.warning("%s: %s", run["name"], note)
    log.info("%d runs in %s (results.csv, report.md, figures/)", len(runs), out / "report.html")


def load(path: Path) -> dict[str, Any]:
    """Return a saved config, its interpolations as they stand.

    Raises:
        ValueError: if it is no config.
    """
    content = OmegaConf.to_container(read_settings(path), resolve=False)
    assert isinstance(content, dict), "settings have names"
    return {str(key): value for key, value in content.items()}


if __name__ == "__main__":
    main()
