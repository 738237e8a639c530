"""Attack a run as an outsider would: python -m mbgan.privacy run=RUN."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("privacy")
def main(cfg: DictConfig) -> None:
    """Write privacy.json: how well training images are told from held-out ones."""
    import numpy as np
    import torch

    from mbgan.assembly import load_data, load_generator, quiet_libraries
    from mbgan.data.folder import patients_of
    from mbgan.images import from_uint8
    from mbgan.latents import fixed_latents
    from mbgan.metrics.features import Extractor
    from mbgan.metrics.membership import auroc, closeness, interval
    from mbgan.metrics.memorization import poses
    from mbgan.networks import Critic, generate
    from mbgan.runs import Run
    from mbgan.saved import build, read_config
    from mbgan.studies.feature_cache import extract_once
    from mbgan.weights import fill, part_of, read_run

    if not isinstance(cfg.n, int) or cfg.n < 2:
        raise ValueError(f"n must be a number, at least 2, got {cfg.n}")
    quiet_libraries()
    run = Run(Path(cfg.run).expanduser())
    generator, origin = load_generator(run, cfg.checkpoint)
    data, config = load_data(run), read_config(run.config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    extractor = build(config.extractor, Extractor).to(device)
    generator.to(device)
    # Val images only where test has none of its own: they picked the checkpoint, test did not.
    rows, files = (data.train, data.test), (data.train_files, data.test_files)
    images = [torch.from_numpy(side[:]) for side in rows]
    names = [patients_of(list(side)) for side in files]
    known = all(side is not None for side in names)
    groups = [
        side if known and side is not None else list(map(str, range(len(x))))
        for side, x in zip(names, images, strict=True)
    ]
    number = torch.arange(cfg.n) % max(1, len(generator.conditions))
    fakes = generate(generator, fixed_latents(range(cfg.n), generator.z_dim, cfg.seed), number)
    drawn = extractor.extract(fakes).features
    near = [
        # A generator that saw images turned and mirrored copies them so: the nearest pose counts.
        np.max(
            [
                closeness(extract_once(extractor, pose, data.cache_dir).features, drawn)
                for pose in poses(x)
            ],
            axis=0,
        )
        for x in images
    ]
    suspicions = {"images alone (distance)": near}

    content, _ = read_run(run, cfg.checkpoint)
    weights = part_of(content, "critic")
    if weights:
        critic = build(config.model.critic, Critic)
        if content["conditions"]:
            critic.condition_on(len(content["conditions"]), seed=0)  # its weights follow
        fill(critic, weights, run.checkpoint(cfg.checkpoint))
        critic.eval()
        scores = []
        for side, x in zip(rows, images, strict=True):
            places = torch.arange(len(x)).split(64)
            condition = torch.from_numpy(side.conditions)
            with torch.no_grad():
                parts = [critic(from_uint8(x[i]), condition[i]) for i in places]
            flat = torch.cat([part.flatten(1).mean(1) if part.ndim > 1 else part for part in parts])
            scores.append(flat.numpy().astype(np.float64))
        suspicions["critic too (loss)"] = scores
    attacks: dict[str, Any] = {}
    for name, (members, others) in suspicions.items():
        low, high = interval(members, others, (groups[0], groups[1]))
        attacks[name] = {"auroc": auroc(members, others), "interval": [low, high]}
    result = {
        **origin,
        "n_members": len(images[0]),
        "n_others": len(images[1]),
        "n_fake": cfg.n,
        "extractor": extractor.name,
        "over": "interval over patients" if known else "interval over images, patients unknown",
        "attacks": attacks,
        "note": "Weak attacks: what these do not find, stronger ones may.",
    }
    run.write_json(run.scored(cfg.checkpoint) / "privacy.json", result)
    for name, found in attacks.items():
        line = "%-24s AUROC %.3f, 95 %% interval %.3f to %.3f"
        log.info(line, name, found["auroc"], *found["interval"])
    log.info("0.5 is chance; %s; in %s", result["over"], run.scored(cfg.checkpoint))


if __name__ == "__main__":
    main()
