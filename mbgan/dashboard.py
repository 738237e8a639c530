"""Make a W&B project open as a dashboard: python -m mbgan.dashboard entity=LAB."""

import logging
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from mbgan.verbs import verb

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

log = logging.getLogger(__name__)


@verb("dashboard")
def main(cfg: DictConfig) -> None:
    """Save a workspace of scores beside their floors, curves and samples, and say where it is."""
    from mbgan.callbacks.wandb import has_key

    if not has_key():
        raise ValueError("a dashboard lives on W&B's server: give a key with wandb login")
    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError:
        raise ValueError("mbgan.dashboard needs an extra: pip install 'mbgan[dashboard]'") from None
    from wandb.errors import Error

    try:
        saved = workspace(cfg.entity, cfg.project, cfg.extractor).save()
    except Error as error:
        raise ValueError(f"project={cfg.entity}/{cfg.project}: W&B says {error}") from None
    log.info("%s", saved.url)


def workspace(entity: str, project: str, extractor: str) -> "Workspace":
    """Return the dashboard of a project's runs, best KID first, grouped by sweep.

    Args:
        entity: team or user of W&B.
        project: that the runs were logged to.
        extractor: whose scores are shown.
    """
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as ws

    seen = "trainer/global_step"  # as Lightning calls images seen
    final = f"final/kid/{extractor}"

    def curve(title: str, key: str) -> panels.LinePlot:
        return panels.LinePlot(title=title, x=seen, y=[key], title_x="images seen")

    def against_floor(title: str, score: str) -> panels.BarPlot:
        key = f"final/{score}/{extractor}"
        return panels.BarPlot(title=title, metrics=[key, f"{key}/floor"], orientation="h")

    return ws.Workspace(
        entity=entity,
        project=project,
        name="mbgan",
        sections=[
            ws.Section(
                name="Final scores, beside the floor of real against real",
                panels=[
                    panels.MediaBrowser(title="Scores", media_keys=["final/scores"], num_columns=1),
                    against_floor("KID, lower is better", "kid"),
                    against_floor("FID, lower is better", "fid"),
                ],
                is_open=True,
            ),
            ws.Section(
                name="Curves over images seen",
                panels=[
                    curve("KID", f"kid/{extractor}"),
                    curve("FID", f"fid/{extractor}"),
                    curve("diversity", f"diversity/{extractor}"),
                    curve("critic loss", "critic/loss"),
                    curve("generator loss", "generator/loss"),
                ],
                is_open=True,
            ),
            ws.Section(
                name="Samples at fixed latents",
                panels=[panels.MediaBrowser(media_keys=["samples"], num_columns=2)],
                is_open=True,
            ),
        ],
        settings=ws.WorkspaceSettings(x_axis=seen, max_runs=50),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("Group")],
            order=[ws.Ordering(ws.Summary(final), ascending=True)],
            pinned_columns=[f"summary:{final}", f"summary:{final}/floor", "run:tags"],
        ),
    )


if __name__ == "__main__":
    main()
