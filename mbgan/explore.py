"""Look into a run's latent space: python -m mbgan.explore run=RUN show=walk."""

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mbgan.verbs import verb

log = logging.getLogger(__name__)
ENDINGS = ("png", "gif", "mp4")


@verb("explore")
def main(cfg: DictConfig) -> None:
    """Write a picture named by its show, and a JSON file that says where it came from."""
    from mbgan.files import draft_of, flush, remove, remove_drafts
    from mbgan.runs import write_text

    if cfg.n < 1:
        raise ValueError(f"n must be at least 1, got {cfg.n}")
    out = Path(cfg.out).expanduser()
    ending = cfg.format if cfg.show == "walk" else "png"
    draft = draft_of(out)
    remove_drafts(out.parent, out.name)
    picture, record = draft / f"{cfg.show}.{ending}", draft / f"{cfg.show}.json"
    try:
        known = draw(cfg, picture)
        settings = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(settings, dict), "a config has names"
        content = {"file": picture.name} | settings | known
        write_text(record, json.dumps(content, indent=2) + "\n")
        flush(draft)
        out.mkdir(parents=True, exist_ok=True)
        for old in ENDINGS:  # no older picture stays beside a record that is not its own
            (out / f"{cfg.show}.{old}").unlink(missing_ok=True)
        for path in (record, picture):
            path.replace(out / path.name)
    finally:
        remove(draft)
    log.info("%s and %s in %s", picture.name, record.name, out)


def draw(cfg: DictConfig, picture: Path) -> dict[str, Any]:
    """Write the picture that is asked for, and return what is known of it."""
    import torch

    from mbgan.assembly import load_data, load_generator
    from mbgan.images import save_png
    from mbgan.latents import fixed_latents
    from mbgan.runs import Run
    from mbgan.studies import latent_sheets as sheets
    from mbgan.studies.animation import save_animation
    from mbgan.studies.projection import project_sides, verdict

    run = Run(Path(cfg.run).expanduser())
    generator, origin = load_generator(run, cfg.checkpoint)
    generator.chosen = generator.matching(cfg["class"], cfg.magnification)[0]
    generator.to("cuda" if torch.cuda.is_available() else "cpu")
    z = fixed_latents(range(2 * cfg.n), generator.z_dim, cfg.seed)
    known = {"synthetic": True} | origin
    if generator.conditions:
        known["condition"] = generator.conditions[generator.chosen]
    match cfg.show:
        case "interpolation":
            sheet = sheets.interpolation(generator, z, cfg.steps, cfg.truncation)
        case "walk":
            frames = sheets.walk(generator, z[: cfg.n], cfg.steps, cfg.truncation)
            save_animation(frames, picture, cfg.fps)
            return known
        case "mixing":
            sheet = sheets.mixing(generator, z[: cfg.n], z[cfg.n :], cfg.truncation)
        case "truncation":
            if not isinstance(cfg.truncation, ListConfig):
                raise ValueError(f"truncation must be a list, as [0.5,1.0], got {cfg.truncation}")
            sheet = sheets.truncation(generator, z[: cfg.n], cfg.truncation)
        case "projection":
            pairs, found = project_sides(generator, load_data(run), cfg.n, cfg.steps, cfg.seed)
            sheet = sheets.projections(pairs)
            known |= {"synthetic": False} | found  # real images are on the sheet
            log.info("%s", verdict(found))
    save_png(sheet, picture)
    return known


if __name__ == "__main__":
    main()
