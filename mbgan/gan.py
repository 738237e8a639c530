"""The training loop: critic steps and generator steps, for any networks, loss and regularizer."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from mbgan.augment import Augment
from mbgan.combinations import check_parts
from mbgan.ema import ema_decay, settle, update_ema
from mbgan.images import from_uint8
from mbgan.latents import Draws, seed_of
from mbgan.losses import AdversarialLoss, ordered
from mbgan.networks import Critic, Generator, mixes_images
from mbgan.networks import generate as generate
from mbgan.regularizers import CriticStep, GeneratorRegularizer, Regularizer
from mbgan.schedules import Schedule
from mbgan.weights import differences

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
COUNTERS = ("critic_steps", "images_seen", "images_drawn")
SETTLING = 512  # images that the averaged generator's batch norm takes its statistics from


class SkipStep(Exception):
    """Raised by a callback before an optimizer's step: it is not taken, and the run goes on."""


class GAN(L.LightningModule):
    """A generator against a critic (Goodfellow et al. 2014), optimized by hand.

    The critic takes a step on every batch of real images (`critic_batches="fresh"`), or
    `n_critic` steps on the same one (`"same"`, Algorithm 1 of the reference paper); after every
    `n_critic` critic steps the generator takes one. Steps are counted over the whole run: an
    epoch of a small data set can be shorter than `n_critic`.

    The clock of a run is `images_seen`, the real images shown to the critic on all devices.
    Every random number is a function of (seed, critic step), so that a resumed run is the
    uninterrupted one, and latents are those of the whole batch however many devices share it.

    Args:
        generator: maps latents z [N, z_dim] to images [N, 3, H, W] in [-1, 1].
        critic: maps such images to scores [N], higher for real.
        loss: adversarial loss of both players.
        regularizer: penalty added to the critic's loss; sees the critic through `augment`.
        augment: applied to every image that the critic judges.
        make_opt_g: builds the generator's optimizer from its parameters.
        make_opt_d: builds the critic's optimizer from its parameters.
        n_critic: critic steps per generator step, at least 1.
        critic_batches: whether those steps share one batch of real images.
        ema_half_life: half-life of the averaged generator in images; 0 for no averaging.
        ema_ramp_up: that half-life is at most this share of images_seen, in (0, 1].
        lr_schedule: factor of both learning rates over images seen; None keeps them.
        beta2_schedule: Adam's second beta of both players over images seen; None keeps them.
        generator_regularizer: penalty added to the generator's loss.
        condition: what tells images apart: none, class, magnification or both. The conditions
            themselves are the data's, so `condition_on` names them.
        freeze_critic: the critic's layers nearest to the image that are not trained.
        seed: of latents, penalty, dropout and augmentation.

    Raises:
        ValueError: if a number is out of range, critic_batches is neither of the two, or the
            parts do not go together.
    """

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        loss: AdversarialLoss,
        regularizer: Regularizer,
        augment: Augment,
        make_opt_g: MakeOptimizer,
        make_opt_d: MakeOptimizer,
        n_critic: int = 5,
        critic_batches: Literal["same", "fresh"] = "same",
        ema_half_life: float = 0,
        ema_ramp_up: float = 0.05,
        lr_schedule: Schedule | None = None,
        beta2_schedule: Schedule | None = None,
        generator_regularizer: GeneratorRegularizer | None = None,
        condition: str = "none",
        freeze_critic: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if n_critic < 1:
            raise ValueError(f"n_critic must be at least 1, got {n_critic}")
        if critic_batches not in ("same", "fresh"):
            raise ValueError(f"critic_batches must be same or fresh, got {critic_batches!r}")
        if not ema_half_life >= 0:
            raise ValueError(f"ema_half_life must be at least 0 images, got {ema_half_life}")
        if not 0 < ema_ramp_up <= 1:
            raise ValueError(f"ema_ramp_up must be in (0, 1], got {ema_ramp_up}")
        generator_regularizer = generator_regularizer or GeneratorRegularizer()
        check_parts(generator, critic, loss, regularizer, augment, generator_regularizer)
        critic.freeze(freeze_critic)
        self.automatic_optimization = False
        self.generator, self.critic = generator, critic
        self.generator_ema = deepcopy(generator).eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # what convolution kernels read fastest
        self.loss, self.regularizer, self.augment = loss, regularizer, augment
        self.make_opt_g, self.make_opt_d = make_opt_g, make_opt_d
        self.n_critic, self.critic_batches = n_critic, critic_batches
        self.generator_regularizer = generator_regularizer
        self.ema_half_life, self.ema_ramp_up = ema_half_life, ema_ramp_up
        self.lr_schedule, self.beta2_schedule = lr_schedule, beta2_schedule
        self.apart = mixes_images(critic)
        self.condition, self.shares = condition, torch.ones(1)
        self.seed = seed
        self._settled_at = -1
        self.critic_steps = 0
        self.images_seen = 0  # real images shown to the critic, repeats counted
        self.images_drawn = 0  # images taken from the data: the position in its stream
        self.losses: dict[str, Tensor] = {}  # of the last step, on this rank; [] each

    def condition_on(self, names: Sequence[str], shares: Sequence[float]) -> None:
        """Tell these conditions apart from now on; of none, nothing changes.

        Args:
            names: one for each number in the batches, 0 .. K - 1.
            shares: how often each is met, relative to the others.
        """
        assert bool(names) == (self.condition != "none"), "the data module names what is asked for"
        if not names:
            return
        self.shares = torch.tensor(shares, dtype=torch.float64)
        for generator in (self.generator, self.generator_ema):
            generator.condition_on(names, self.seed)
        self.generator_ema.requires_grad_(False)
        self.critic.condition_on(len(names), self.seed)

    def compile_networks(self, mode: str) -> None:
        """Let torch.compile make kernels of both networks in training, all but the penalty.

        Args:
            mode: default, reduce-overhead (CUDA graphs) or max-autotune.
        """
        self.generator.compile(mode=mode)
        self.critic.compile(mode=mode)

    def configure_optimizers(self) -> tuple[Optimizer, Optimizer]:
        """Build one optimizer per player, generator first.

        Raises:
            ValueError: if beta2 has a schedule and an optimizer has none.
        """
        optimizers = (
            self.make_opt_g(self.generator.parameters()),
            self.make_opt_d(self.critic.parameters()),
        )
        if self.beta2_schedule is not None and not all("betas" in o.defaults for o in optimizers):
            names = " and ".join(type(opt).__name__ for opt in optimizers)
            raise ValueError(
                f"beta2_schedule needs optimizers with betas, as Adam, got {names}; set "
                "model.beta2_schedule=null"
            )
        # A checkpoint brings back its own settings with the moments; the run's config wins.
        self._settings = [
            [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]
            for opt in optimizers
        ]
        return optimizers

    def on_train_start(self) -> None:
        """Give the optimizers the settings of this run's config, also after a resume."""
        for opt, settings in zip(self.optimizers(), self._settings, strict=True):
            for group, setting in zip(opt.param_groups, settings, strict=True):
                group.update(setting)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Train the critic on a batch, and the generator when its turn comes.

        Args:
            batch: images [N, 3, H, W], uint8, and the numbers [N] of their conditions.
            batch_idx: not used; critic steps are counted over the whole run.
        """
        images, condition = batch
        opt_g, opt_d = self.optimizers()
        self._set_rates()
        dtype = next(self.critic.parameters()).dtype
        x_real = from_uint8(images, dtype).contiguous(memory_format=torch.channels_last)
        self.images_drawn += len(x_real) * self.trainer.world_size
        for _ in range(self.n_critic if self.critic_batches == "same" else 1):
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            draws = Draws(self.seed, self.critic_steps, rank, world_size)
            torch.manual_seed(seed_of(self.seed, "dropout", self.critic_steps, rank))
            torch.compiler.cudagraph_mark_step_begin()  # their outputs are used up; else no effect
            with suppress(SkipStep):
                self._critic_step(x_real, condition, draws, opt_d)
            self.critic_steps += 1
            self.images_seen += len(x_real) * world_size
            if self.critic_steps % self.n_critic == 0:
                with suppress(SkipStep):
                    self._generator_step(x_real, condition, draws, opt_g)

    def _critic_step(
        self, x_real: Tensor, condition: Tensor, draws: Draws, opt: LightningOptimizer
    ) -> None:
        with self.toggled_optimizer(opt):
            with torch.no_grad():
                x_fake = self.sample(condition, draws.of("critic")).to(x_real.dtype)
            judged = [self.augment(x_real, draws, "real"), self.augment(x_fake, draws, "fake")]
            if self.apart:
                scores = [self.critic(x, condition) for x in judged]
            else:  # one pass over both is faster
                scores = list(self.critic(torch.cat(judged), condition.repeat(2)).chunk(2))
            d_real, d_fake = (score.to(x_real.dtype) for score in scores)
            loss = self.loss.critic(d_real, d_fake)
            extra = self.critic.extra_loss(judged[0], draws)
            penalty = self.regularizer(
                CriticStep(
                    # Not by __call__: what torch.compile makes has no second derivative.
                    lambda x: self.critic.forward(self.augment(x, draws, "penalty"), condition),
                    *(x_real, x_fake, d_real, d_fake, draws),
                )
            )
            self.losses |= {
                "critic/loss": loss.detach(),
                "critic/penalty": penalty.detach(),
                "critic/real": d_real.detach().mean(),
                "critic/fake": d_fake.detach().mean(),
                "critic/ordered": ordered(d_real.detach(), d_fake.detach()),
            }
            opt.zero_grad()
            self.manual_backward(loss + penalty + extra)
            opt.step()
            self.regularizer.after_step(self.critic)
        self.augment.observe(d_real.detach(), draws)

    def _generator_step(
        self, x_real: Tensor, condition: Tensor, draws: Draws, opt: LightningOptimizer
    ) -> None:
        n, turn = len(x_real), self.critic_steps // self.n_critic - 1
        with self.toggled_optimizer(opt):
            d_real = None
            if self.loss.needs_real:
                with torch.no_grad():
                    paired = self.augment(x_real, draws, "paired")
                    d_real = self.critic(paired, condition).to(x_real.dtype)
            x_fake = self.augment(self.sample(condition, draws.of("generator")), draws, "generator")
            d_fake = self.critic(x_fake, condition).to(x_real.dtype)
            loss = self.loss.generator(d_real, d_fake) + self.critic.extra_generator_loss(draws)
            z = self.latents(condition, draws.of("path"))
            penalty = self.generator_regularizer(self.generator, z, draws.of("path"), turn)
            self.losses |= {"generator/loss": loss.detach(), "generator/penalty": penalty.detach()}
            opt.zero_grad()
            self.manual_backward(loss + penalty)
            opt.step()
        images = n * draws.world_size * self.n_critic  # the critic saw since the last turn
        decay = ema_decay(self.ema_half_life, images, self.images_seen, self.ema_ramp_up)
        update_ema(self.generator_ema, self.generator, decay)

    def _set_rates(self) -> None:
        for opt, settings in zip(self.optimizers(), self._settings, strict=True):
            for group, setting in zip(opt.param_groups, settings, strict=True):
                if self.lr_schedule is not None:
                    group["lr"] = setting["lr"] * self.lr_schedule(self.images_seen)
                if self.beta2_schedule is not None:
                    beta2 = self.beta2_schedule(self.images_seen)
                    group["betas"] = (setting["betas"][0], beta2)

    def latents(self, condition: Tensor, draws: Draws) -> Tensor:
        """Return latents [N, z_dim] of z ~ N(0, I) and conditions [N], with their graph."""
        z = draws.normal("z", len(condition), self.generator.z_dim)
        z = z.to(next(self.generator.parameters()), non_blocking=True)
        return self.generator.conditioned(z, condition)

    def sample(self, condition: Tensor, draws: Draws) -> Tensor:
        """Return images [N, 3, H, W] of the generator in training, of conditions [N]."""
        return self.generator(self.latents(condition, draws), draws)

    def on_fit_start(self) -> None:
        """Settle the averaged generator before anything looks at it; a checkpoint's is."""
        if not self.images_seen:
            self.settle()

    def settle(self) -> None:
        """Bring the averaged generator's batch norm up to date with its weights, see `settle`.

        A function of the weights alone; to be called on every rank before it draws or is saved.
        """
        if self._settled_at == self.critic_steps:
            return
        self._settled_at = self.critic_steps
        draws = Draws(0, 0).of("settle")
        numbers = draws.uniform("condition", SETTLING).double()
        condition = torch.bucketize(numbers, (self.shares / self.shares.sum()).cumsum(0)[:-1])
        z = draws.normal("z", SETTLING, self.generator.z_dim)
        average = self.generator_ema

        def draw(z: Tensor, condition: Tensor) -> Tensor:
            return average.render(average.points(z, condition))

        settle(average, draw, z.to(next(average.parameters())), condition)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the counters that the rest of the run is a function of, and the last losses.

        The generator's are of some batches ago, and belong to the next evaluation.
        """
        checkpoint["critic_extractor"] = self.critic.extractor
        checkpoint["conditions"] = list(self.generator.conditions)
        checkpoint["counters"] = {name: getattr(self, name) for name in COUNTERS}
        checkpoint["losses"] = {name: loss.cpu() for name, loss in self.losses.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the counters back, and refuse another architecture.

        Raises:
            ValueError: if a tensor is missing on either side or differs in shape.
        """
        differing = [*differences(checkpoint["state_dict"], self.state_dict()).values()]
        if differing:
            raise ValueError(
                f"the checkpoint must be of the model that the config describes, got {differing[0]}"
                "; resume without overrides of model or image_size, or start a new run"
            )
        if checkpoint["conditions"] != list(self.generator.conditions):
            raise ValueError(
                "the checkpoint must tell apart what the data does, "
                f"{list(self.generator.conditions)}, got {checkpoint['conditions']}; resume with "
                "the images that the run began with"
            )
        for name in COUNTERS:
            setattr(self, name, checkpoint["counters"][name])
        self.losses = dict(checkpoint.get("losses", self.losses))  # earlier versions have none
        self._settled_at = -1
