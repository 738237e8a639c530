"""The W&B workspace that a project of runs opens as."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


def save(made: "Workspace") -> str:
    """Save a dashboard on W&B's server, and return its address.

    Raises:
        ValueError: if the server does not take it.
    """
    from wandb.errors import Error

    try:
        return str(made.save().url)
    except Error as error:
        raise ValueError(f"project={made.entity}/{made.project}: W&B says {error}") from None


def workspace(entity: str, project: str, extractor: str) -> "Workspace":
    """Return the dashboard of a project's runs, best KID first, grouped by sweep.

    Args:
        entity: team or user of W&B.
        project: that the runs were logged to.
        extractor: whose scores are shown.

    Raises:
        ValueError: if the package that writes workspaces is not there.
    """
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise ValueError("mbgan.dashboard needs an extra: pip install 'mbgan[dashboard]'") from None
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
