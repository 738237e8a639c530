"""Draw images from a run or a bundle: python -m mbgan.generate run=RUN n=64."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("generate")
def main(cfg: DictConfig) -> None:
    """Write n images and manifest.jsonl, a line an image that says where it came from."""
    from mbgan.assembly import load_data, load_generator, quiet_libraries
    from mbgan.bundle import generate_from
    from mbgan.labels import jpeg_quality
    from mbgan.metrics.features import Extractor
    from mbgan.production import Order, produce
    from mbgan.runs import Run
    from mbgan.saved import build, read_config
    from mbgan.studies.audit import Audit

    quiet_libraries()
    audited = cfg.audit or cfg.reject.copies or cfg.reject.min_density is not None
    if (cfg.run is None) == (cfg.bundle is None):
        raise ValueError("generate needs run=RUN or bundle=DIR, one of them")
    if cfg.bundle is not None:
        if audited:
            raise ValueError("audit and reject need run=RUN: a bundle has no training images")
        wanted = {str(key): value for key, value in cfg.items()}
        generate_from(Path(cfg.bundle).expanduser(), wanted | {"out": cfg.out or "generated"})
        return
    run = Run(Path(cfg.run).expanduser())
    generator, origin = load_generator(run, cfg.checkpoint)
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
        extractor = build(read_config(run.config).extractor, Extractor)
        judge = Audit(extractor, data, cfg.reject.copies, cfg.reject.min_density)
    out = Path(cfg.out).expanduser() if cfg.out is not None else run.folder / "generated"
    counts = produce(generator, order, out, cfg.devices, judge)
    said = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    log.info("%s, and manifest.jsonl, in %s", said, out)


if __name__ == "__main__":
    main()
