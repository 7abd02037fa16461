"""Where a model's time goes on a CPU, by kind of operator."""

from __future__ import annotations

from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile

from dinat_zoo.bench.jobs import ModelJob
from dinat_zoo.bench.rows import Setting

# The first kind of which a part is in an operator's name takes it.
_KINDS = {
    "neighborhood attention": ("na_qkvpacked", "na_forward", "na_backward", "natten_core"),
    "other attention": ("bmm", "softmax", "scaled_dot_product", "attention"),
    "convolution": ("convolution",),
    "linear": ("addmm", "aten::mm", "linear"),
    "layer norm": ("layer_norm",),
    "GELU": ("gelu",),
    "copies, permutations, casts": ("copy_", "cat", "roll", "index", "clone"),
    "additions, scales, dropout": ("aten::add", "aten::mul", "dropout", "bernoulli", "aten::div"),
}
OTHER = "everything else"


@dataclass(frozen=True)
class Share:
    """Time of a kind of operator in one step, without what it calls.

    Attributes:
        kind: what the operators do.
        ms: milliseconds.
        share: of the whole step, 0 to 1.
        calls: operators run.
    """

    kind: str
    ms: float
    share: float
    calls: int


def profile_model(model: str, setting: Setting, *, steps: int = 3, channels_last: bool = False) -> list[Share]:
    """The shares of kinds of operators in a model's step on a CPU, the largest first.

    A linear layer's bias is copied into its output before the product; that copy counts under copies.

    Args:
        model: a name that timm knows.
        setting: what to run it on; eager, on a CPU.
        steps: how many steps to record, after two that are not.
        channels_last: whether its weights and images shall be in this memory format.

    Raises:
        ValueError: for a setting that is compiled or on another device.
    """
    if setting.compiled or setting.device != "cpu":
        raise ValueError(f"setting is {setting}; operators are told apart on the CPU, in eager mode, only.")
    step = ModelJob(model, setting, channels_last).step()
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as recorded:  # else torch 2.10 warns
        for _ in range(steps):
            step()
    spent: dict[str, tuple[float, int]] = {}
    for event in recorded.key_averages():
        kind = _kind(event.key)
        ms, calls = spent.get(kind, (0.0, 0))
        spent[kind] = ms + event.self_cpu_time_total / 1e3 / steps, calls + event.count // steps
    total = sum(ms for ms, _ in spent.values())
    shares = [Share(kind, ms, ms / total, calls) for kind, (ms, calls) in spent.items()]
    return sorted(shares, key=lambda share: -share.ms)


def _kind(operator: str) -> str:
    if operator.startswith(("autograd::", "Backward")):
        return OTHER
    return next((kind for kind, parts in _KINDS.items() if any(part in operator for part in parts)), OTHER)
