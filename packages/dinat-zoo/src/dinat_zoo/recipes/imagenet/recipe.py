"""What decides the result of a training, and the published values of it by model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dinat_zoo import dinat, dinat_s, isotropic, nat

_CODE = "arXiv:2209.15001, section 4.1, and the authors' training script and configurations"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result; a run is resumed only under the recipe it began with.

    Attributes:
        source: where the values are published.
        epochs: passes over the training images under the schedule, warm-up included.
        warmup_epochs: of these, epochs of linearly rising learning rate.
        cooldown_epochs: more epochs at `min_lr` after them.
        batch_size: images per update, over all processes and accumulated steps.
        lr: peak learning rate of AdamW.
        warmup_lr: the learning rate that the warm-up begins with.
        min_lr: the learning rate that the schedule ends with.
        schedule: "cosine" or "linear", by updates.
        weight_decay: of matrices, kernels and, as in the authors' training, relative positional biases; not of other
            biases and norms.
        clip: largest norm of the gradient.
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none; where both are on, each batch takes one of them at random.
        smoothing: label smoothing.
        color_jitter: strength of the colours' jitter, unused where `auto_augment` is set.
        auto_augment: timm's name of a RandAugment policy, or "".
        erase: probability of random erasing.
        drop_path: stochastic depth of the last block, or None for the model's own.
        ema: decay of the weights' average, or None for no average.
        amp: train in mixed precision on a GPU.
    """

    source: str = _CODE
    epochs: int = 300
    warmup_epochs: int = 20
    cooldown_epochs: int = 10
    batch_size: int = 1024
    lr: float = 1e-3
    warmup_lr: float = 1e-6
    min_lr: float = 5e-6
    schedule: str = "cosine"
    weight_decay: float = 0.05
    clip: float = 5.0
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    color_jitter: float = 0.4
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    erase: float = 0.25
    drop_path: float | None = None
    ema: float | None = None
    amp: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0.")
        for name in ("cooldown_epochs", "warmup_lr", "min_lr", "weight_decay", "mixup", "cutmix", "color_jitter"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0.")
        for name in ("smoothing", "erase", "drop_path", "ema"):
            value = getattr(self, name)
            if value is not None and not (0 <= value < 1 or (name == "erase" and value == 1)):
                raise ValueError(f"{name} is {value}; it must be from 0 to {'1' if name == 'erase' else 'below 1'}.")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs}; it must be below epochs, from 0 to {self.epochs - 1}."
            )
        if self.schedule not in ("cosine", "linear"):
            raise ValueError(f"schedule is {self.schedule!r}; it must be 'cosine' or 'linear'.")


_SCRATCH = Recipe()
_ISOTROPIC_BASE = replace(_SCRATCH, warmup_epochs=50, ema=0.9998)
_FINE_TUNING = replace(
    _SCRATCH, epochs=30, warmup_epochs=0, cooldown_epochs=0, batch_size=512, lr=5e-5, schedule="linear",
    weight_decay=1e-4, mixup=0.0, cutmix=0.0, amp=False,
)  # fmt: skip
_PRETRAINING = replace(
    _SCRATCH, source="arXiv:2209.15001, section 4.1; the authors released no configuration of it", epochs=90,
    warmup_epochs=5, cooldown_epochs=0, batch_size=4096, schedule="linear", weight_decay=0.01,
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
    **dict.fromkeys([*nat.VARIANTS, *dinat.VARIANTS, *dinat_s.VARIANTS, *isotropic.VARIANTS], _SCRATCH),
    **dict.fromkeys(("nat_isotropic_base", "dinat_isotropic_base", "vitrpb_base"), _ISOTROPIC_BASE),
    **dict.fromkeys(("dinat_large", "dinat_large_384_11x11", "dinat_s_large"), _FINE_TUNING),
    # The paper says 1e-4 for all; these two are the configurations'.
    "dinat_large_384": replace(_FINE_TUNING, weight_decay=1e-10),
    "dinat_s_large_384": replace(_FINE_TUNING, weight_decay=1e-5),
    **dict.fromkeys(("dinat_large_21k", "dinat_large_21k_11x11", "dinat_s_large_21k"), _PRETRAINING),
}
"""The recipe of every model; those that nobody published for ImageNet have the one of the small models."""


def recipe_of(model: str) -> Recipe:
    """The recipe of a model, named with or without a timm tag.

    Raises:
        ValueError: there is no such model.
    """
    name = model.split(".")[0]
    if name not in RECIPES:
        raise ValueError(f"model is {model!r}; there are {', '.join(sorted(RECIPES))}.")
    return RECIPES[name]
