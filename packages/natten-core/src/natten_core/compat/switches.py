"""NATTEN's global switches for its fused kernels: they remember what they were set to, and change nothing."""

from __future__ import annotations

from enum import Enum

import torch


class MemoryUsagePreference(Enum):
    """How much memory NATTEN's backward might take."""

    Default = 0
    Strict = 1
    Unrestricted = 2


class NattenContext:
    """The settings that the switches make."""

    is_deterministic_mode_enabled = False
    is_fused_na_enabled = False
    is_kv_parallelism_enabled = False
    use_flex_attention = False
    force_flex_attention = False
    flex_compile_allowed = False
    flex_compile_backprop_allowed = False
    training_memory_preference = MemoryUsagePreference.Default

    @staticmethod
    def reset() -> None:
        """Sets everything to its default."""
        for name, value in _DEFAULTS.items():
            setattr(NattenContext, name, value)


_DEFAULTS = {
    name: value for name, value in vars(NattenContext).items() if isinstance(value, (bool, MemoryUsagePreference))
}


class AutotunerContext:
    """The settings of an auto-tuner, of which natten-core has none."""

    enabled_for_forward = False
    enabled_for_backward = False
    thorough_mode_forward = False
    thorough_mode_backward = False

    @staticmethod
    def reset() -> None:
        """Sets everything to its default."""
        for name in ("enabled_for_forward", "enabled_for_backward", "thorough_mode_forward", "thorough_mode_backward"):
            setattr(AutotunerContext, name, False)


_PREFERENCES = {preference.name.lower(): preference for preference in MemoryUsagePreference}


def set_memory_usage_preference(pref: str = "default") -> None:
    """Remembers "default", "strict" or "unrestricted"; natten-core's backward takes no more than it needs.

    Raises:
        ValueError: anything else.
    """
    if pref not in _PREFERENCES:
        raise ValueError(f"pref must be one of {list(_PREFERENCES)}, got {pref!r}")
    NattenContext.training_memory_preference = _PREFERENCES[pref]


def get_memory_usage_preference() -> MemoryUsagePreference:
    """What was set last."""
    return NattenContext.training_memory_preference


def is_memory_usage_default() -> bool:
    """Whether that is the default."""
    return get_memory_usage_preference() is MemoryUsagePreference.Default


def is_memory_usage_strict() -> bool:
    """Whether that is "strict"."""
    return get_memory_usage_preference() is MemoryUsagePreference.Strict


def is_memory_usage_unrestricted() -> bool:
    """Whether that is "unrestricted"."""
    return get_memory_usage_preference() is MemoryUsagePreference.Unrestricted


def use_deterministic_algorithms(mode: bool = True) -> None:
    """Remembers `mode`. What decides here is `torch.use_deterministic_algorithms`."""
    NattenContext.is_deterministic_mode_enabled = mode


def are_deterministic_algorithms_enabled() -> bool:
    """What was set last."""
    return NattenContext.is_deterministic_mode_enabled


def use_kv_parallelism_in_fused_na(mode: bool = True) -> None:
    """Remembers `mode`, but not True where torch is to be deterministic, as NATTEN did.

    Raises:
        RuntimeError: True, after `natten.use_deterministic_algorithms()`.
    """
    if mode and torch.are_deterministic_algorithms_enabled():
        return
    if mode:
        _refuse_if_deterministic("KV parallelism")
    NattenContext.is_kv_parallelism_enabled = mode


def is_kv_parallelism_in_fused_na_enabled() -> bool:
    """What was set last."""
    return NattenContext.is_kv_parallelism_enabled


def use_fused_na(
    mode: bool = True, kv_parallel: bool = True, use_flex_attention: bool = False, force_flex_attention: bool = False
) -> None:
    """Remembers the arguments. The modules are fused with or without it, but for dropout of attention weights."""
    use_kv_parallelism_in_fused_na(mode and kv_parallel)
    NattenContext.is_fused_na_enabled = mode
    NattenContext.use_flex_attention = mode and use_flex_attention
    NattenContext.force_flex_attention = mode and force_flex_attention


def is_fused_na_enabled() -> bool:
    """What was set last."""
    return NattenContext.is_fused_na_enabled


def use_flex_attention() -> None:
    """`use_fused_na` with FlexAttention, which is not used here."""
    use_fused_na(use_flex_attention=True)


def force_flex_attention() -> None:
    """`use_fused_na` with FlexAttention, which is not used here."""
    use_fused_na(use_flex_attention=True, force_flex_attention=True)


use_fna, is_fna_enabled = use_fused_na, is_fused_na_enabled


def use_autotuner(
    forward_pass: bool | None = None,
    backward_pass: bool | None = None,
    thorough_mode_forward: bool | None = None,
    thorough_mode_backward: bool | None = None,
    warmup_steps_forward: int | None = None,
    warmup_steps_backward: int | None = None,
    steps_forward: int | None = None,
    steps_backward: int | None = None,
) -> None:
    """Remembers the first four arguments, but none where torch is to be deterministic, as NATTEN did; tunes nothing.

    Raises:
        RuntimeError: a pass is switched on after `natten.use_deterministic_algorithms()`.
    """
    if forward_pass or backward_pass:
        if torch.are_deterministic_algorithms_enabled():
            return
        _refuse_if_deterministic("auto-tuning")
    given = {
        "enabled_for_forward": forward_pass,
        "enabled_for_backward": backward_pass,
        "thorough_mode_forward": thorough_mode_forward,
        "thorough_mode_backward": thorough_mode_backward,
    }
    for name, value in given.items():
        if value is not None:
            setattr(AutotunerContext, name, value)


def disable_autotuner() -> None:
    """Forgets what `use_autotuner` was told."""
    AutotunerContext.reset()


def is_autotuner_enabled() -> bool:
    """Whether it was switched on for either pass."""
    return AutotunerContext.enabled_for_forward or AutotunerContext.enabled_for_backward


def is_autotuner_enabled_for_forward() -> bool:
    """Whether it was switched on for the forward."""
    return AutotunerContext.enabled_for_forward


def is_autotuner_enabled_for_backward() -> bool:
    """Whether it was switched on for the backward."""
    return AutotunerContext.enabled_for_backward


def is_autotuner_thorough_for_forward() -> bool:
    """Whether it was told to be thorough in the forward."""
    return AutotunerContext.thorough_mode_forward


def is_autotuner_thorough_for_backward() -> bool:
    """Whether it was told to be thorough in the backward."""
    return AutotunerContext.thorough_mode_backward


def is_flex_compile_allowed() -> bool:
    """What `allow_flex_compile` was told last."""
    return NattenContext.flex_compile_allowed


def is_flex_compile_backprop_allowed() -> bool:
    """What `allow_flex_compile` was told last of the backward."""
    return NattenContext.flex_compile_backprop_allowed


def allow_flex_compile(mode: bool = True, backprop: bool = False) -> None:
    """Remembers the arguments; FlexAttention is not used here."""
    NattenContext.flex_compile_allowed = mode
    NattenContext.flex_compile_backprop_allowed = mode and backprop


def allow_flex_compile_backprop(mode: bool = True) -> None:
    """Remembers `mode` of the backward."""
    allow_flex_compile(is_flex_compile_allowed(), mode)


def disable_flex_compile() -> None:
    """Takes `allow_flex_compile` back."""
    allow_flex_compile(False)


def disable_flex_compile_backprop() -> None:
    """Takes `allow_flex_compile_backprop` back."""
    allow_flex_compile(is_flex_compile_allowed(), False)


def _refuse_if_deterministic(what: str) -> None:
    if are_deterministic_algorithms_enabled():
        raise RuntimeError(f"{what} is not deterministic: call natten.use_deterministic_algorithms(False) first")
