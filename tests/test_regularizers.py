import pytest
import torch
from conftest import TinyCritic, tiny_gan

from mbgan.augment import Augment
from mbgan.latents import Draws
from mbgan.losses import Hinge, NonSaturating, Relativistic, Wasserstein
from mbgan.networks import Critic
from mbgan.networks.wgan import WGANGenerator
from mbgan.regularizers import (
    CriticStep,
    Drift,
    GradientPenalty,
    LeCam,
    Regularizer,
    Sum,
    WeightClipping,
    ZeroCentered,
)
from mbgan.schedules import Cosine


def step(critic, x_real, x_fake, number=0):
    """One critic step without augmentation."""
    scores = (critic(x).detach() for x in (x_real, x_fake))
    return CriticStep(critic, x_real, x_fake, *scores, Draws(0, number))


@pytest.mark.parametrize("norm", [0.0, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic_is_exact(norm):
    """D(x) = <w, x> has gradient w everywhere, so the penalty is gp_weight * (||w|| - 1)^2."""
    w = torch.zeros(3, 4, 4)
    w[0, 0, 0] = norm
    x_real, x_fake = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    critic = lambda x: (x * w).sum((1, 2, 3))  # noqa: E731
    penalty = GradientPenalty(gp_weight=10.0)(step(critic, x_real, x_fake))
    torch.testing.assert_close(penalty, torch.tensor(10.0 * (norm - 1) ** 2))


def test_gradient_penalty_looks_between_real_and_fake():
    """D(x) = x^2 / 2 of one pixel has gradient x, so the penalty tells where x_hat lies."""
    x_real, x_fake = torch.full((64, 1, 1, 1), 2.0), torch.zeros(64, 1, 1, 1)
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().sum((1, 2, 3)) / 2

    penalty = GradientPenalty(1.0)(step(critic, x_real, x_fake))
    x_hat = seen[-1]
    assert 0 <= x_hat.min() < 0.2
    assert 1.8 < x_hat.max() <= 2
    torch.testing.assert_close(penalty, (x_hat.abs() - 1).square().mean())


def test_gradient_penalty_reaches_the_critic_and_not_the_generator():
    w = torch.ones(3, 4, 4, requires_grad=True)
    x_fake = torch.randn(2, 3, 4, 4, requires_grad=True)
    critic = lambda x: (x * w).sum((1, 2, 3))  # noqa: E731
    GradientPenalty()(step(critic, torch.randn(2, 3, 4, 4), x_fake)).backward()
    assert w.grad.abs().sum() > 0
    assert x_fake.grad is None


@pytest.mark.parametrize(
    ("full_precision", "dtype"), [(True, torch.float32), (False, torch.bfloat16)]
)
def test_gradient_penalty_multiplies_as_it_is_told_and_sums_in_float32(full_precision, dtype):
    dtypes = []

    def critic(x):
        y = x.flatten(1) @ torch.ones(48, 1)
        dtypes.append(y.dtype)
        return y.squeeze(1)

    with torch.autocast("cpu", torch.bfloat16):
        penalty = GradientPenalty(full_precision=full_precision)(
            step(critic, torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
        )
    assert dtypes == [torch.bfloat16] * 2 + [dtype]
    # ||1, ..., 1|| = sqrt(48); in bfloat16 the sum of squares would be off by up to 0.4 %
    torch.testing.assert_close(penalty, torch.tensor(10 * (48**0.5 - 1) ** 2))


def test_gradient_penalty_rejects_unequal_shapes():
    with pytest.raises(ValueError, match=r"same shape, got \[2, 3, 4, 4\] and \[1, 3, 4, 4\]"):
        GradientPenalty()(
            step(lambda x: x.sum((1, 2, 3)), torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))
        )


def test_gradient_penalty_refuses_a_negative_weight():
    with pytest.raises(ValueError, match="gp_weight must be at least 0, got -1"):
        GradientPenalty(-1)


def test_no_penalty_is_zero():
    x = torch.ones(2, 3, 4, 4)
    assert Regularizer()(step(lambda x: x, x, x)) == 0


def linear(w):
    """D(x) = <w, x>, whose gradient is w everywhere."""
    return lambda x: (x * w).sum((1, 2, 3))


@pytest.mark.parametrize(("real", "fake", "sides"), [(1, 0, 1), (0, 1, 1), (1, 1, 2)])
def test_zero_centered_penalty_of_a_linear_critic_is_exact(real, fake, sides):
    """gamma / 2 * ||w||^2 for each side that is chosen (Mescheder et al. 2018, eq. 9)."""
    w = torch.randn(3, 4, 4)
    x_real, x_fake = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    penalty = ZeroCentered(6.0, real=bool(real), fake=bool(fake))(step(linear(w), x_real, x_fake))
    torch.testing.assert_close(penalty, sides * 3.0 * w.square().sum())


def test_r1_and_r2_look_at_the_images_themselves():
    """D(x) = ||x||^2 / 2 has gradient x: R1 is E[||x_real||^2], R2 that of the fakes."""
    x_real, x_fake = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    critic = lambda x: x.square().sum((1, 2, 3)) / 2  # noqa: E731
    for sides, x in (({"real": True}, x_real), ({"real": False, "fake": True}, x_fake)):
        penalty = ZeroCentered(2.0, **sides)(step(critic, x_real, x_fake))
        torch.testing.assert_close(penalty, x.square().sum((1, 2, 3)).mean())


@pytest.mark.parametrize("kind", [ZeroCentered, GradientPenalty])
def test_lazy_penalty_comes_every_interval_and_weighs_as_much_in_all(kind):
    """Karras et al. 2020, app. B: once in 4 steps, 4 times as strong."""
    x, w = torch.randn(2, 3, 4, 4), torch.ones(3, 4, 4)
    always, lazy = kind(1.0), kind(1.0, interval=4)
    each = [[p(step(linear(w), x, x, n)).item() for n in range(8)] for p in (always, lazy)]
    assert [value > 0 for value in each[1]] == [True, False, False, False] * 2
    assert sum(each[1]) == sum(each[0])


def test_scheduled_gamma_follows_the_images_of_the_whole_batch():
    """At step 3 of a batch of 2 on each of 2 ranks the critic saw 12 images."""
    x, w = torch.randn(2, 3, 4, 4), torch.ones(3, 4, 4)
    scores = linear(w)(x)
    seen = CriticStep(linear(w), x, x, scores, scores, Draws(0, 3, rank=1, world_size=2))
    assert seen.images == 12
    gamma = Cosine(start=8.0, end=2.0, images=24)  # 5 halfway
    torch.testing.assert_close(ZeroCentered(gamma)(seen), torch.tensor(5.0 / 2 * 48))


def test_penalties_go_through_the_augmentation_to_the_image_itself(fit):
    """D(T(x)) for T(x) = 3 x has three times the slope of D."""
    slopes = []

    class Triple(Augment):
        def forward(self, x, draws, name):
            return 3 * x

    class Look(ZeroCentered):
        def forward(self, step):
            (w,) = (p for n, p in gan.critic.named_parameters() if n == "slope")
            slopes.append((super().forward(step).item(), 9 / 2 * w.square().sum().item()))
            return step.x_real.new_zeros(())

    class Linear(Critic):
        def __init__(self):
            super().__init__(16, 1)
            self.slope = torch.nn.Parameter(torch.randn(3 * 16 * 16))

        def forward(self, x, condition=None):
            return x.flatten(1) @ self.slope

    gan = tiny_gan(critic=Linear(), augment=Triple(), regularizer=Look(1.0))
    fit(gan, batches=2)
    for penalty, expected in slopes:
        assert penalty == pytest.approx(expected, rel=1e-4)


def test_drift_is_the_mean_square_of_real_scores():
    x = torch.zeros(2, 3, 4, 4)
    seen = CriticStep(linear(x[0]), x, x, torch.tensor([3.0, 1]), torch.ones(2), Draws(0, 0))
    torch.testing.assert_close(Drift(0.1)(seen), torch.tensor(0.5))


def scored(d_real, d_fake, number):
    """A step in which the critic gave these scores."""
    x = torch.zeros(len(d_real), 3, 4, 4)
    return CriticStep(
        linear(x[0]), x, x, torch.tensor(d_real), torch.tensor(d_fake), Draws(0, number)
    )


def test_lecam_draws_scores_to_the_other_sides_average():
    """Tseng et al. 2021, eq. 6, one-sided: real scores over a_fake, fake ones under a_real."""
    lecam = LeCam(0.5, decay=0.9, warmup=0)
    first = lecam(scored([2.0, 4.0], [-1.0, 1.0], 0))
    torch.testing.assert_close(lecam.anchors, torch.tensor([3.0, 0.0]))  # those of the first step
    torch.testing.assert_close(first, torch.tensor(0.5 * ((4 + 16) / 2 + (16 + 4) / 2)))
    second = lecam(scored([-1.0, 1.0], [5.0, 1.0], 1))
    real, fake = 0.9 * 3 + 0.1 * 0, 0.9 * 0 + 0.1 * 3
    torch.testing.assert_close(lecam.anchors, torch.tensor([real, fake]))
    above, below = (1 - fake) ** 2 / 2, (real - 1) ** 2 / 2  # the other image of each is past it
    torch.testing.assert_close(second, torch.tensor(0.5 * (above + below)))


def test_lecam_waits_for_its_averages_and_keeps_them():
    lecam = LeCam(1.0, decay=0.5, warmup=2)
    values = [lecam(scored([1.0], [-1.0], number)).item() for number in range(4)]
    assert [value > 0 for value in values] == [False, False, True, True]
    assert list(lecam.state_dict()) == ["anchors"]  # a resumed run goes on with them


def test_lecam_averages_over_all_ranks(monkeypatch):
    other = torch.tensor([5.0, 3.0])  # the other rank's mean scores
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda means: means.add_(other))
    x, lecam = torch.zeros(1, 3, 4, 4), LeCam(1.0)
    scores = torch.tensor([1.0]), torch.tensor([-1.0])
    lecam(CriticStep(linear(x[0]), x, x, *scores, Draws(0, 0, 0, 2)))
    torch.testing.assert_close(lecam.anchors, torch.tensor([3.0, 1.0]))


def test_clipping_holds_every_weight_of_the_critic_and_none_of_the_generator(fit):
    gan = tiny_gan(regularizer=WeightClipping(0.01))
    fit(gan, batches=2)
    largest = max(p.abs().max().item() for p in gan.critic.parameters())
    assert largest == pytest.approx(0.01)
    assert gan.generator.dense.weight.abs().max() > 0.01


def test_clipping_leaves_frozen_weights_as_they_are():
    critic = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
    frozen = critic[0].requires_grad_(False).weight.clone()
    WeightClipping(0.01).after_step(critic)
    assert torch.equal(critic[0].weight, frozen)
    assert critic[1].weight.abs().max() <= 0.01


def test_sum_adds_its_parts_and_lets_each_do_its_work():
    w, x = torch.ones(3, 4, 4), torch.randn(4, 3, 4, 4)
    parts = {"r1": ZeroCentered(2.0), "drift": Drift(0.5), "clip": WeightClipping(0.1)}
    seen = step(linear(w), x, x)
    both = parts["r1"](seen) + parts["drift"](seen)
    whole = Sum(**parts)
    torch.testing.assert_close(whole(seen), both)
    layer = torch.nn.Linear(2, 1)
    whole.after_step(layer)
    assert layer.weight.abs().max() <= 0.1
    assert (whole.per_image, whole.lipschitz) == (True, True)
    assert (Sum(drift=Drift()).per_image, Sum(drift=Drift()).lipschitz) == (False, False)
    assert (Sum(clip=WeightClipping()).per_image, Sum(clip=WeightClipping()).lipschitz) == (
        False,
        True,
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ZeroCentered(-1), "gamma must be at least 0, got -1"),
        (lambda: ZeroCentered(Cosine(-2, 1, 10)), "gamma must be at least 0, got -2"),
        (lambda: ZeroCentered(1, interval=0), "interval must be at least 1, got 0"),
        (lambda: GradientPenalty(1, interval=0), "interval must be at least 1, got 0"),
        (lambda: ZeroCentered(1, real=False), "must be of real or fake images, or of both"),
        (lambda: Drift(-0.1), "drift_weight must be at least 0, got -0.1"),
        (lambda: LeCam(float("nan")), "lecam_weight must be at least 0, got nan"),
        (lambda: LeCam(0.3, decay=1), r"decay must be in \[0, 1\), got 1"),
        (lambda: WeightClipping(0), "clip must be over 0, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class NormedCritic(TinyCritic):
    """With batch norm after its convolution."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Sequential(self.conv, torch.nn.BatchNorm2d(8))


PER_IMAGE = [GradientPenalty(), ZeroCentered(1.0), Sum(drift=Drift(), r1=ZeroCentered(1.0))]


@pytest.mark.parametrize("regularizer", PER_IMAGE)
@pytest.mark.parametrize("loss", [Wasserstein(), NonSaturating(), Hinge(), Relativistic()])
def test_penalties_on_the_gradient_refuse_batch_norm_by_its_name(loss, regularizer):
    """A score would depend on the whole batch, and its gradient on other images' scores."""
    message = (
        f"{type(regularizer).__name__} needs a critic without batch norm.* got one at 'conv.1'"
    )
    with pytest.raises(ValueError, match=message):
        tiny_gan(critic=NormedCritic(), loss=loss, regularizer=regularizer)


@pytest.mark.parametrize("regularizer", [Regularizer(), Drift(), LeCam(0.3), Sum(drift=Drift())])
def test_wasserstein_loss_refuses_what_does_not_bound_the_slope(regularizer):
    message = f"Wasserstein loss needs a regularizer .*, got {type(regularizer).__name__}; choose"
    with pytest.raises(ValueError, match=message):
        tiny_gan(regularizer=regularizer)


def test_other_losses_take_a_critic_with_batch_norm_and_no_penalty(fit):
    for loss in (NonSaturating(), Hinge(), Relativistic()):
        gan = tiny_gan(critic=NormedCritic(), loss=loss, regularizer=Drift())
        fit(gan, batches=2)
        assert all(p.isfinite().all() for p in gan.parameters())


def test_networks_of_two_image_sizes_are_refused():
    with pytest.raises(ValueError, match="must have one image_size, got 32 and 16"):
        tiny_gan(generator=WGANGenerator(4, image_size=32, width=1))
