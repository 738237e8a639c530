"""Draw images from a run: python -m mbgan.generate run=RUN n=64."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("generate")
def main(cfg: DictConfig) -> None:
    """Write n images and manifest.jsonl, a line an image that says where it came from."""
    from hydra.utils import instantiate

    from mbgan.assembly import load_data, load_generator, quiet_libraries
    from mbgan.labels import jpeg_quality
    from mbgan.production import Order, produce
    from mbgan.runs import Run
    from mbgan.studies.audit import Audit

    quiet_libraries()
    run = Run(Path(cfg.run).expanduser())
    generator, origin = load_generator(run, cfg.checkpoint)
    audited = cfg.audit or cfg.reject.copies or cfg.reject.min_density is not None
    data = None
    if audited or (cfg.format == "jpeg" and cfg.quality is None):
        data = load_data(run)
    quality = cfg.quality
    if quality is None:
        quality = data and jpeg_quality(file.path for file in data.train_files)
    order = Order(
        n=cfg.n,
        seed=cfg.seed,
        conditions=generator.matching(cfg["class"], cfg.magnification),
        truncation=cfg.truncation,
        kind=cfg.format,
        quality=95 if quality is None else quality,
        shard_size=cfg.shard_size,
        key=cfg.watermark,
        origin=origin,
        judged={"audit": audited, **OmegaConf.to_container(cfg.reject)},  # type: ignore[dict-item]
    )
    judge = None
    if audited:
        assert data is not None
        extractor = instantiate(OmegaConf.load(run.config).extractor)
        judge = Audit(extractor, data, cfg.reject.copies, cfg.reject.min_density)
    out = Path(cfg.out).expanduser()
    counts = produce(generator, order, out, cfg.devices, judge)
    said = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    log.info("%s, and manifest.jsonl, in %s", said, out)


if __name__ == "__main__":
    main()
