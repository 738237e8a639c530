"""Configs become objects, and run folders become generators."""

import logging
import warnings
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from mbgan.callbacks import find
from mbgan.callbacks.evaluation import Evaluation
from mbgan.callbacks.provenance import Provenance
from mbgan.callbacks.timing import StepTimer
from mbgan.data.datamodule import MagnificationDataModule
from mbgan.devices import can_compile, check_devices, pick_accelerator, pick_precision
from mbgan.documents import read_object
from mbgan.gan import GAN
from mbgan.metrics.suite import Suite
from mbgan.networks import Generator
from mbgan.runs import Run, rank, write_text
from mbgan.saved import build, portable, read_config
from mbgan.studies import score_sheet
from mbgan.studies.card_summary import Speed
from mbgan.studies.scoring import score_generator
from mbgan.weights import begin_with, fill, part_of, read_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a training consists of."""

    gan: GAN
    datamodule: MagnificationDataModule
    trainer: L.Trainer
    origin: dict[str, Any] | None  # of the first weights, if another run gave them


def assemble(cfg: DictConfig) -> Parts:
    """Build the data, the GAN and the trainer that a config of mbgan.train describes.

    Raises:
        ValueError: if a setting is out of range, asks for devices that are not there, or for
            weights of another architecture.
        FileNotFoundError: if the images, or the run to begin with, are not there.
    """
    quiet_libraries()
    cfg = deepcopy(cfg)  # instantiate writes what ${...} stands for into the config it is given
    devices = check_devices(cfg.trainer)
    L.seed_everything(cfg.seed, verbose=False)  # the networks' first weights
    gan = instantiate(cfg.model, _convert_="all")  # plain lists: checkpoints hold no config
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values() if callback]
    check_extractor(gan, callbacks)
    datamodule = instantiate(cfg.data, _convert_="all")
    datamodule.setup()  # last: it may decode for minutes
    gan.condition_on(datamodule.conditions, datamodule.shares)
    origin = begin(cfg, gan)
    compile_networks(cfg, gan)
    patience = timedelta(seconds=cfg.rank_timeout_s)
    strategy = DDPStrategy(find_unused_parameters=True, timeout=patience) if devices > 1 else "auto"
    trainer = instantiate(
        cfg.trainer,
        # Not "auto", which takes Apple's GPU: nobody has tried the penalty there.
        accelerator=pick_accelerator(cfg.trainer),
        precision=pick_precision(cfg.trainer),
        strategy=strategy,
        # Its trials choose now this kernel, now that, whose sums differ in the last bit.
        benchmark=cfg.trainer.benchmark and not cfg.trainer.deterministic,
        # Of the whole batch, as on one device; torch has no such layer for the CPU.
        sync_batchnorm=devices > 1 and pick_accelerator(cfg.trainer) != "cpu",
        logger=[instantiate(logger) for logger in cfg.logger.values() if logger],
        callbacks=callbacks,
        default_root_dir=cfg.run_dir,
        max_epochs=-1,  # the stream of batches has no end: the guard stops it
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return Parts(gan, datamodule, trainer, origin)


def begin(cfg: DictConfig, gan: GAN) -> dict[str, Any] | None:
    """Give a new GAN the weights of the run that cfg.init_from names, and return their origin.

    Raises:
        FileNotFoundError: if that is no run, or holds no such checkpoint.
        ValueError: if its architecture is another, or random layers would be frozen.
    """
    if cfg.resume is not None:
        return None  # it has weights
    if cfg.init_from is None:
        if cfg.model.freeze_critic:
            raise ValueError(
                f"model.freeze_critic={cfg.model.freeze_critic} needs init_from=RUN, as random "
                "layers would be frozen; name a run, or leave out model.freeze_critic"
            )
        return None
    content, origin = read_run(Run(Path(cfg.init_from).expanduser()), cfg.init_checkpoint)
    same = content["conditions"] == list(gan.generator.conditions)
    begin_with(gan, content["state_dict"], same_conditions=same)
    log.info(
        "init_from: weights of %s (%s, %d images seen); patients it was trained on may be held "
        "out here, which flatters the scores",
        *(origin["run"], origin["checkpoint"], origin["images_seen"]),
    )
    return origin


def compile_networks(cfg: DictConfig, gan: GAN) -> None:
    """Do what cfg.compile says, where a compiler is there.

    Raises:
        ValueError: if it is no mode of torch.compile's.
    """
    modes = ("default", "reduce-overhead", "max-autotune")
    if cfg.compile is None:
        return
    if cfg.compile not in modes:
        raise ValueError(f"compile must be null or one of {', '.join(modes)}, got {cfg.compile}")
    if can_compile(pick_accelerator(cfg.trainer)):
        gan.compile_networks(cfg.compile)
    else:
        log.warning("compile=%s needs a C++ compiler, for GPUs Triton: without it", cfg.compile)


def check_extractor(gan: GAN, callbacks: list[L.Callback]) -> None:
    """Refuse to pick the best checkpoint by the network that the critic sees by.

    Raises:
        ValueError: if it does.
    """
    for evaluation in (callback for callback in callbacks if isinstance(callback, Evaluation)):
        name = evaluation.suite.extractor.name
        if name == gan.critic.extractor:
            raise ValueError(
                f"extractor must not be the network that the critic learns by, got {name}: its "
                "images please that one; choose extractor=efficientnet_lite2 or inception"
            )


def quiet_libraries() -> None:
    """Keep from the terminal what libraries say about things that are as they should be."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if rank() > 0:  # the first says it all
        logging.getLogger("mbgan").setLevel(logging.ERROR)
    for message in (
        r"Found \d+ module\(s\) in eval mode",  # the averaged generator
        "Metric `.*` will save all extracted features",  # a few hundred
        ".*LeafSpec",  # Lightning calls torch by an old name
        ".*does not have many workers",  # images are in memory
        "Grad strides do not match bucket view",  # of layers with few channels
    ):
        warnings.filterwarnings("ignore", message)


def resumed(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Return the saved config of the run that cfg.resume names, with the overrides laid over it.

    A group that is overridden (trainer=ddp_cpu) replaces the saved one as a whole. A run that was
    ended before its first checkpoint begins anew: its resume is null here.

    Raises:
        FileNotFoundError: if there is nothing to resume.
        ValueError: if an override is of a kind that cannot be laid over a saved config.
    """
    run = Run(Path(cfg.resume).expanduser())
    run.require_config()
    if not run.unbegun:
        run.require(checkpoint="last")
    saved = read_config(run.config)
    for override in overrides:
        key = override.split("=", 1)[0]
        if key == "experiment" or key[0] in "+~" or "@" in key or "/" in key:
            raise ValueError(
                f"beside resume, an override must be of a setting or a group, got {override!r}; "
                "start a new run for it"
            )
        if key in ("init_from", "init_checkpoint"):
            raise ValueError(
                f"{key} cannot stand beside resume, which goes on with the run's own weights; "
                "start a new run for it"
            )
        OmegaConf.update(saved, key, OmegaConf.select(cfg, key), merge=False)
    for setting in cfg.keys() - saved.keys():
        saved[setting] = cfg[setting]  # what an update has brought
    saved.run_dir = cfg.run_dir  # the folder may have been moved, or copied
    if run.unbegun:
        saved.resume = None
    return saved


def record_config(parts: Parts, cfg: DictConfig, run: Run) -> None:
    """Let the run folder and the loggers have the config as soon as training begins.

    Not before: an override beside resume may prove not to fit the checkpoint. What is saved holds
    on another day and from another folder: what `auto` chose, and absolute paths.
    """
    extractor, cfg = find(parts.trainer, Evaluation).suite.extractor, cfg.copy()
    if cfg.extractor._target_.endswith(".auto"):
        target = f"{type(extractor).__module__}.{type(extractor).__name__}"
        weights = {"weights": cfg.extractor.weights} if extractor.name == "inception" else {}
        cfg.extractor = {"_target_": target} | weights
    if "weights" in cfg.extractor and cfg.extractor.weights is not None:
        cfg.extractor.weights = str(Path(cfg.extractor.weights).expanduser().absolute())
    cfg.trainer.precision = parts.trainer.precision  # measured, where it was auto
    cfg.run_dir, cfg.resume = str(run.folder.absolute()), None
    if parts.origin is not None:
        cfg.init_from = parts.origin["run"]
        find(parts.trainer, Provenance).init_from = parts.origin
    if isinstance(cfg.data.root, str):
        cfg.data.root = str(parts.datamodule.root.absolute())

    def record(trainer: L.Trainer, gan: L.LightningModule) -> None:
        if trainer.is_global_zero:
            write_text(run.config, OmegaConf.to_yaml(portable(cfg)))
        for logger in trainer.loggers:
            logger.log_hyperparams(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)))

    parts.trainer.callbacks.append(LambdaCallback(on_train_start=record))


def load_generator(run: Run, checkpoint: str) -> tuple[Generator, dict[str, Any]]:
    """Return a run's averaged generator in eval mode, and where it came from.

    Args:
        run: the run folder.
        checkpoint: last or best.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
    """
    content, origin = read_run(run, checkpoint)
    generator = build(read_config(run.config).model.generator, Generator)
    if content["conditions"]:
        generator.condition_on(content["conditions"], seed=0)  # its weights follow
    fill(generator, part_of(content, "generator_ema"), run.checkpoint(checkpoint))
    return generator.eval(), origin


def load_data(run: Run) -> MagnificationDataModule:
    """Return a run's data, found, decoded and split as when it trained.

    Raises:
        ValueError: if the images are not the same any more.
    """
    config = read_config(run.config)
    datamodule = build(config.data, MagnificationDataModule, _convert_="all")
    datamodule.setup()
    check_same_data(run, datamodule)
    return datamodule


def check_same_data(run: Run, datamodule: MagnificationDataModule) -> None:
    """Refuse other images than the run began with: training images would become held-out ones.

    Raises:
        ValueError: if an image was added, removed or changed since.
    """
    known = ("data.sha256", "data.n_train", "data.n_held_out")
    then = read_object(run.status, *known)["data"]
    if then["sha256"] != datamodule.sha256:
        now = len(datamodule.train) + len(datamodule.held_out)
        raise ValueError(
            f"data.root must hold the images that the run began with ({then['n_train']} to train "
            f"on, {then['n_held_out']} held out), got {now} images, some of them others; their "
            "split would differ: bring the old ones back, or start a new run"
        )


def score(
    run: Run, checkpoint: str, suite: Suite, datamodule: MagnificationDataModule, seed: int
) -> dict[str, Any]:
    """Score a run's generator against the images it never saw; return and write the result.

    Into scores.json, or scored/last/scores.json for the last checkpoint; a table and pictures
    into scored/CHECKPOINT.

    Args:
        run: the run folder.
        checkpoint: last or best.
        suite: which scores.
        datamodule: the run's data.
        seed: of the latents.
    """
    scored = score_generator(*load_generator(run, checkpoint), datamodule, suite, seed)
    run.write_json(run.scores(checkpoint), scored.result)
    score_sheet.write(scored, run.scored(checkpoint))
    return scored.result


def time_training(cfg: DictConfig, seconds: float = 15) -> Speed:
    """Return how fast the training that a config describes goes on this machine.

    Nothing is scored or saved. On a CPU a small batch is timed, as a step of the paper's takes
    minutes; there the time of an image hardly depends on the batch.

    Args:
        cfg: of mbgan.train, with run_dir set.
        seconds: to measure for, after the first turn of critic and generator.
    """
    cfg = cfg.copy()
    cfg.callbacks, cfg.logger = {}, {}
    if pick_accelerator(cfg.trainer) == "cpu":
        cfg.batch_size = min(cfg.batch_size, 8)
    parts, timer = assemble(cfg), StepTimer(seconds)
    parts.trainer.callbacks.append(timer)
    parts.trainer.fit(parts.gan, parts.datamodule)
    on_gpu = parts.trainer.strategy.root_device.type == "cuda"
    cores = f"CPU, {torch.get_num_threads()} threads"
    device = torch.cuda.get_device_name() if on_gpu else cores
    return Speed(
        device=device,
        gpu=on_gpu,
        images_per_s=timer.images_per_s,
        steps_timed=timer.steps,
        batch_size=cfg.batch_size,
        flops_per_image=timer.flops_per_image,
        memory_bytes=timer.memory_bytes,
        watts=sum(timer.watts) / len(timer.watts) if timer.watts else None,
    )
