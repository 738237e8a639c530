"""Which parts of a GAN go together: what theory forbids is refused before any image is read."""

from collections.abc import Iterator

from torch import nn
from torch.nn.utils import parametrize

from mbgan.augment import Augment
from mbgan.losses import AdversarialLoss
from mbgan.networks import Critic, Generator, RescalesWeights
from mbgan.regularizers import GeneratorRegularizer, Regularizer, Styled


def check_parts(
    generator: Generator,
    critic: Critic,
    loss: AdversarialLoss,
    regularizer: Regularizer,
    augment: Augment,
    generator_regularizer: GeneratorRegularizer,
) -> None:
    """Refuse parts that theory forbids to go together.

    Raises:
        ValueError: if they are of two image sizes, a penalty meets batch norm, clipping meets
            rescaled weights, a loss that needs
            a Lipschitz critic has none, an augmentation reads signs that mean nothing, or a
            penalty is of styles that the generator lacks.
    """
    if generator.image_size != critic.image_size:
        raise ValueError(
            "generator and critic must have one image_size, got "
            f"{generator.image_size} and {critic.image_size}"
        )
    if regularizer.per_image:
        for name, module in critic.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise ValueError(
                    f"{type(regularizer).__name__} needs a critic without batch norm, as it "
                    f"differentiates each score by its own image, got one at {name!r}; set "
                    "model.critic.batch_norm=false, or regularizer=none with another loss than "
                    "Wasserstein"
                )
    if regularizer.clips and (rescaled := next(rescaled_layers(critic), None)):
        raise ValueError(
            f"{type(regularizer).__name__} needs a critic whose stored weights are those it "
            f"computes with, got {type(critic).__name__}, which rescales those of {rescaled!r}; "
            "choose regularizer=gp or r1"
        )
    if loss.needs_lipschitz and not regularizer.lipschitz:
        raise ValueError(
            f"the {type(loss).__name__} loss needs a regularizer that bounds the critic's slope, "
            f"got {type(regularizer).__name__}; choose regularizer=gp, r1 or clip"
        )
    if augment.needs_zero and not loss.zero_divides:
        raise ValueError(
            f"{type(augment).__name__} needs a loss whose scores divide at 0, to read overfitting "
            f"from their signs, got {type(loss).__name__}; choose augment=histology or "
            "diffaugment, or the NonSaturating or Hinge loss"
        )
    if generator_regularizer.needs_styles and not isinstance(generator, Styled):
        raise ValueError(
            f"{type(generator_regularizer).__name__} needs a generator with styles, as "
            f"stylegan_lite's, got {type(generator).__name__}; set "
            "model.generator_regularizer.pl_weight=0"
        )


def rescaled_layers(critic: Critic) -> Iterator[str]:
    """Name the layers that divide or multiply their weights: spectral norm, equalized rates."""
    for name, module in critic.named_modules():
        if parametrize.is_parametrized(module) or isinstance(module, RescalesWeights):
            yield name
