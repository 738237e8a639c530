"""Make a bundle to hand on: python -m mbgan.export run=RUN out=BUNDLE."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mbgan.documents import read_object
from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("export")
def main(cfg: DictConfig) -> None:
    """Write weights, config, other formats, a model card and hashes; gates may refuse."""
    from mbgan.assembly import load_data, load_generator, quiet_libraries
    from mbgan.labels import jpeg_quality
    from mbgan.runs import Run, sha256_of
    from mbgan.saved import read_config
    from mbgan.studies.release import Facts, write_bundle

    quiet_libraries()
    run, out = Run(Path(cfg.run).expanduser()), Path(cfg.out).expanduser()
    generator, origin = load_generator(run, cfg.checkpoint)
    data = load_data(run)
    trained = read_config(run.config)
    settings = OmegaConf.to_container(trained.model.generator, resolve=True)
    assert isinstance(settings, dict)
    there = data.root / "card.json"
    card_path = cfg.data_card or (there if there.is_file() else None)
    card = read_result("data_card", card_path, "card.json", "mbgan.prepare", "data_sha256")
    license_name = cfg.license or (card or {}).get("license")
    scores, privacy = run.scores(cfg.checkpoint), run.scored(cfg.checkpoint) / "privacy.json"
    attack = read_object(privacy, "checkpoint_sha256") if privacy.is_file() else None
    if attack and attack["checkpoint_sha256"] != origin["checkpoint_sha256"]:
        attack = None  # of other weights
    patients = {f.patient for f in (*data.train_files, *data.held_out_files, *data.test_files)}
    facts = Facts(
        origin=origin,
        architecture=str(settings.pop("_target_")),
        settings={str(key): value for key, value in settings.items()},
        scores=read_object(scores) if scores.is_file() else None,
        status=read_object(run.status),
        card=card,
        card_sha256=sha256_of(in_folder(card_path, "card.json")) if card_path else None,
        license=license_name,
        patients=None if None in patients or "" in patients else len(patients),
        jpeg_quality=jpeg_quality(file.path for file in data.train_files),
        privacy=attack,
        utility=read_result("utility", cfg.utility, "utility.json", "mbgan.utility", "comparisons"),
        readers=read_result(
            "readers", cfg.readers, "scores.json", "mbgan.reader_study score=...", "readers"
        ),
    )
    write_bundle(out, generator, facts, cfg.override_gate, cfg.onnx)
    log.info("bundle in %s; its images: python -m mbgan.bundle %s n=64", out, out)


def in_folder(path: str | Path, name: str) -> Path:
    """Return a file that is named itself, or by its folder."""
    path = Path(path).expanduser()
    return path / name if path.is_dir() else path


def read_result(
    key: str, path: str | Path | None, name: str, verb_name: str, part: str
) -> dict[str, Any] | None:
    """Return what another verb wrote, found by its file or folder; None without a path.

    Raises:
        ValueError: if it is not there, or something else.
    """
    if path is None:
        return None
    try:
        return read_object(in_folder(path, name), part)
    except (OSError, ValueError):
        raise ValueError(
            f"{key} must be {name} of {verb_name}, or its folder, got {path}"
        ) from None


if __name__ == "__main__":
    main()
