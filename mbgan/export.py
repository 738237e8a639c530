"""Make a bundle to hand on: python -m mbgan.export run=RUN out=BUNDLE."""

import json
import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("export")
def main(cfg: DictConfig) -> None:
    """Write weights, config, other formats, a model card and hashes; gates may refuse."""
    from mbgan.assembly import load_data, load_generator, quiet_libraries
    from mbgan.labels import jpeg_quality
    from mbgan.runs import Run, sha256_of
    from mbgan.studies.release import Facts, write_bundle

    quiet_libraries()
    run, out = Run(Path(cfg.run).expanduser()), Path(cfg.out).expanduser()
    generator, origin = load_generator(run, cfg.checkpoint)
    data = load_data(run)
    trained = OmegaConf.load(run.config)
    settings = OmegaConf.to_container(trained.model.generator, resolve=True)
    assert isinstance(settings, dict)
    path = Path(cfg.data_card or data.root / "card.json").expanduser()
    if cfg.data_card is not None and not path.is_file():
        raise FileNotFoundError(f"data_card must be a card.json of mbgan.prepare, got {path}")
    card = json.loads(path.read_text()) if path.is_file() else None
    scores, privacy = run.scores(cfg.checkpoint), run.scored(cfg.checkpoint) / "privacy.json"
    attack = json.loads(privacy.read_text()) if privacy.is_file() else None
    if attack and attack["checkpoint_sha256"] != origin["checkpoint_sha256"]:
        attack = None  # of other weights
    patients = {f.patient for f in (*data.train_files, *data.held_out_files, *data.test_files)}
    facts = Facts(
        origin=origin,
        architecture=str(settings.pop("_target_")),
        settings={str(key): value for key, value in settings.items()},
        scores=json.loads(scores.read_text()) if scores.is_file() else None,
        status=json.loads(run.status.read_text()),
        card=card,
        card_sha256=sha256_of(path) if card else None,
        license=cfg.license or (card and card.get("license")),
        patients=None if None in patients or "" in patients else len(patients),
        jpeg_quality=jpeg_quality(file.path for file in data.train_files),
        privacy=attack,
    )
    write_bundle(out, generator, facts, cfg.override_gate, cfg.onnx)
    log.info("bundle in %s; its images: python -m mbgan.bundle %s n=64", out, out)


if __name__ == "__main__":
    main()
