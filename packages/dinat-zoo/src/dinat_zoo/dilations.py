"""Which dilation every block of a model has: the published lists and the rules behind them.

A list of dilations is nested, one tuple per level and in it one dilation per block. Blocks come in a repeating order,
`layer_order`: "na" has dilation 1, "dina" the level's, "sa" attends to the whole map and counts as 1. The published one
is "na-dina", local before global (Table 10).

>>> from dinat_zoo import dilations
>>> dilations.alternate((3, 4, 6, 5), (8, 4, 2, 1))
((1, 8, 1), (1, 4, 1, 4), (1, 2, 1, 2, 1, 2), (1, 1, 1, 1, 1))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["TASKS", "Dilations", "alternate", "gradual", "largest", "maximum", "published"]

Dilations = tuple[tuple[int, ...], ...]
"""One tuple per level, in it one dilation per block."""


def alternate(depths: Sequence[int], dilations: Sequence[int], layer_order: str = "na-dina") -> Dilations:
    """One dilation per level, in the level's "dina" blocks: the rows of Tables 9, 10 and 12.

    Args:
        depths: blocks of each level.
        dilations: the dilation of each level.
        layer_order: the repeating order of blocks; each level starts it anew.

    Raises:
        ValueError: if there are not as many dilations as levels.
    """
    _one_per_level("dilations", dilations, depths)
    return tuple(
        tuple(dilation if kind == "dina" else 1 for kind in kinds)
        for dilation, kinds in zip(dilations, block_kinds(depths, layer_order), strict=True)
    )


def largest(map_sizes: Sequence[tuple[int, int]], kernel_sizes: Sequence[int]) -> tuple[int, ...]:
    """The largest dilation of each level whose window fits its map: the shorter side over the kernel size, or 1."""
    return tuple(max(1, min(size) // kernel) for size, kernel in zip(map_sizes, kernel_sizes, strict=True))


def maximum(
    depths: Sequence[int],
    map_sizes: Sequence[tuple[int, int]],
    kernel_sizes: Sequence[int],
    layer_order: str = "na-dina",
) -> Dilations:
    """The largest dilation that fits in every "dina" block ("Maximum" in Tables 9 and 12; ImageNet's lists).

    Args:
        depths: blocks of each level.
        map_sizes: height and width of each level's map.
        kernel_sizes: the window of each level.
        layer_order: as in `alternate`.
    """
    return alternate(depths, largest(map_sizes, kernel_sizes), layer_order)


def gradual(depths: Sequence[int], largest: Sequence[int], layer_order: str = "na-dina") -> Dilations:
    """Dilations that grow through a level up to a largest one ("Gradual" in Table 9, Figure 4).

    The paper gives lists, not a rule. This rule makes all its downstream lists (Table II) and its example, 2, 4, 6, 8
    for 8. The "dina" blocks of a level run through `ceil(largest * i / n)`, i = 1..n, again and again, and the last one
    has the largest. n is the number of values above 1 that equal steps down from the largest give, at least
    `(largest - 1) / 4` each, and at most the number of such blocks. The last level has the largest throughout.

    Args:
        depths: blocks of each level.
        largest: the largest dilation of each level.
        layer_order: as in `alternate`.

    Raises:
        ValueError: if there are not as many dilations as levels.

    Example:
        >>> gradual((8, 2), (8, 1))
        ((1, 2, 1, 4, 1, 6, 1, 8), (1, 1))
    """
    _one_per_level("largest", largest, depths)
    levels = []
    for i, (top, kinds) in enumerate(zip(largest, block_kinds(depths, layer_order), strict=True)):
        count = kinds.count("dina")
        values = iter([top] * count if i == len(depths) - 1 else _ramp(top, count))
        levels.append(tuple(next(values) if kind == "dina" else 1 for kind in kinds))
    return tuple(levels)


def _ramp(top: int, count: int) -> list[int]:
    step = -(-(top - 1) // 4)
    length = max(1, min(count, -(-(top - 1) // step))) if step else 1
    values = [-(-top * (i % length + 1) // length) for i in range(count)]
    return [*values[:-1], top] if values else []


_Depths = tuple[tuple[int, ...], ...]
_DINAT_LARGE: _Depths = ((3, 4, 18, 5),)
_LARGE: _Depths = (*_DINAT_LARGE, (2, 2, 18, 2))
_ALL: _Depths = ((3, 4, 6, 5), (2, 2, 6, 2), *_LARGE)
_Rule = Callable[[Sequence[int], Sequence[int]], Dilations]
# Of each task and the resolution of its training, None where there is one list alone: the depths of the models that had
# it, the rule, and the largest dilation of each level.
_LISTS: dict[tuple[str, int | None], tuple[_Depths, _Rule, tuple[int, ...]]] = {
    ("imagenet", 224): (_ALL, alternate, (8, 4, 2, 1)),
    ("imagenet", 384): (_LARGE, alternate, (13, 6, 3, 1)),
    ("coco", 800): (_ALL, gradual, (28, 14, 7, 3)),
    ("ade20k", 512): (_ALL, gradual, (16, 8, 4, 2)),
    ("ade20k", 640): (_LARGE, gradual, (20, 10, 5, 2)),
    ("oneformer-coco", None): (_DINAT_LARGE, gradual, (20, 10, 5, 2)),
    ("oneformer-ade20k", 640): (_DINAT_LARGE, gradual, (20, 10, 5, 2)),
    ("oneformer-ade20k", 896): (_DINAT_LARGE, gradual, (20, 10, 5, 2)),
    ("oneformer-cityscapes", None): (_DINAT_LARGE, gradual, (18, 9, 4, 2)),
}
# Those that follow neither rule.
_EXPLICIT: dict[tuple[str, int | None], Dilations] = {
    ("oneformer-ade20k", 1280): ((1, 28, 1), (1, 7, 1, 14), (1, 3, 1, 5, 1, 5, 1, 7) * 2 + (1, 7), (1, 3, 1, 3, 1)),
    ("mask2former", None): ((1, 14, 1), (1, 4, 1, 7), (1, 2, 1, 3) * 4 + (1, 3), (1,) * 5),
}
TASKS = tuple(dict.fromkeys(task for task, _ in (*_LISTS, *_EXPLICIT)))
"""The tasks that `published` knows."""


def published(depths: Sequence[int], task: str, resolution: int | None = None) -> Dilations:
    """The list that the authors used: Table II of the paper, and those of Mask2Former's and OneFormer's configurations.

    Args:
        depths: blocks of each level of a published model.
        task: one of `TASKS`.
        resolution: the image size of its training, for the tasks with lists for several; None for the smallest. For
            ImageNet 224 or 384, of models with 7x7 windows.

    Raises:
        ValueError: if the authors published no list for these, with those that they did.

    Example:
        >>> published((3, 4, 6, 5), "coco")
        ((1, 28, 1), (1, 7, 1, 14), (1, 3, 1, 5, 1, 7), (1, 3, 1, 3, 1))
    """
    resolutions = [size for known, size in (*_LISTS, *_EXPLICIT) if known == task]
    if not resolutions:
        raise ValueError(f"task is {task!r}; there are lists for {', '.join(map(repr, TASKS))}.")
    if resolution is None:
        resolution = min(resolutions, key=lambda size: size or 0)
    if resolution not in resolutions:
        raise ValueError(f"resolution is {resolution}; for {task!r} there are lists for {resolutions}.")
    key, shape = (task, resolution), tuple(depths)
    explicit = _EXPLICIT.get(key)
    fitting = (tuple(map(len, explicit)),) if explicit else _LISTS[key][0]
    if shape not in fitting:
        raise ValueError(f"depths is {shape}; for {task!r} at {resolution} there are lists for {list(fitting)}.")
    if explicit:
        return explicit
    _, rule, values = _LISTS[key]
    return rule(depths, values)


def block_kinds(depths: Sequence[int], layer_order: str) -> tuple[tuple[str, ...], ...]:
    """The kind of every block of every level.

    Args:
        depths: blocks of each level.
        layer_order: kinds joined by "-", which each level repeats from its start.

    Raises:
        ValueError: for another kind.
    """
    kinds = layer_order.split("-")
    if not set(kinds) <= {"na", "dina", "sa"}:
        raise ValueError(f"layer_order is {layer_order!r}; it must be of 'na', 'dina' and 'sa', joined by '-'.")
    return tuple(tuple(kinds[i % len(kinds)] for i in range(depth)) for depth in depths)


def _one_per_level(name: str, value: Sequence[int], depths: Sequence[int]) -> None:
    if len(value) != len(depths):
        raise ValueError(f"{name} is {tuple(value)}, for {len(value)} levels; there are {len(depths)}: one per level.")
