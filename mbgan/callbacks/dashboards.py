"""What loggers take beside numbers: pictures, the final scores, the best checkpoint."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from mbgan.callbacks.wandb import WandbLogger
from mbgan.runs import Run


def show(loggers: Iterable[Logger], name: str, picture: Tensor, step: int) -> None:
    """Hand a picture to the loggers that take pictures.

    Args:
        loggers: of the trainer.
        name: of the panel.
        picture: (3, height, width) in [0, 1], or uint8.
        step: images seen.
    """
    pixels = picture.permute(1, 2, 0).cpu().numpy()
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [pixels], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, pixels, key=name, step=step)


def publish(
    loggers: Iterable[Logger], run: Run, result: dict[str, Any], table: pd.DataFrame
) -> None:
    """Hand the final scores to the loggers: numbers, floors, the chart; no real image.

    W&B gets the table too and, when it is online, the best checkpoint.

    Args:
        loggers: of the trainer; the CSV logger is left out, as scored/best/scores.csv has it all.
        run: the run folder.
        result: content of scores.json.
        table: the same as a row a score.
    """
    step = result["images_seen"]
    chart = pil_to_tensor(Image.open(run.scored("best") / "scores.png").convert("RGB"))
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            continue
        logger.log_metrics(numbers(result), step=step)
        show([logger], "final/scores", chart, step)
        if isinstance(logger, WandbLogger):
            logger.log_table("final/table", dataframe=table.drop(columns="source"), step=step)
            logger.upload(run.checkpoint("best"), metadata=numbers(result))
        logger.finalize("success")  # again, as training's end was not the last word


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return the scores of all images by name, with the ends of the interval and the floor.

    >>> entry = {"value": 0.2, "interval": [0.1, 0.3], "floor": {"mean": 0.01}}
    >>> numbers({"scores": {"kid/inception": entry, "recall/inception": {"value": None}}})
    {'final/kid/inception': 0.2, 'final/kid/inception/low': 0.1, 'final/kid/inception/high': 0.3, \
'final/kid/inception/floor': 0.01}
    """
    found: dict[str, float | None] = {}
    for key, entry in result["scores"].items():
        low, high = entry.get("interval", (None, None))
        floor = entry.get("floor", {}).get("mean")
        parts = {"": entry["value"], "/low": low, "/high": high, "/floor": floor}
        found |= {f"final/{key}{part}": value for part, value in parts.items()}
    return {key: float(value) for key, value in found.items() if value is not None}
