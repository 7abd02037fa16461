"""What the models have in common: timm's interface to a tokenizer, a row of levels, a norm and a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

import torch
from timm.layers import ClassifierHead, trunc_normal_
from torch import Tensor, nn

from dinat_zoo import dilations as policies
from dinat_zoo._attention import SelfAttention2D
from dinat_zoo._blocks import Block
from dinat_zoo._rpb import interpolate_rpb
from dinat_zoo.dilations import Dilations
from natten_core import NeighborhoodAttention2D

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _typed(function: _Function) -> _Function:
    """Makes its annotations types again: torch.fx writes them into its code, where TorchScript reads no strings."""
    function.__annotations__ = get_type_hints(function)
    return function


class BaseTransformer(nn.Module):
    """What this package's models have in common, timm's interface included.

    A subclass makes `patch_embed`, `levels`, `out_norms`, `norm` and `feature_info`. A level maps `[B, H, W, C]` to
    `[B, H', W', C']`; its output, through its entry of `out_norms`, is a feature map.
    """

    __jit_unused_properties__ = ("dilations",)

    if TYPE_CHECKING:  # TorchScript reads annotations, but not these
        pretrained_cfg: dict[str, Any]  # set by timm's builder
        feature_info: list[dict[str, Any]]
        patch_embed: nn.Module
        levels: nn.Sequential
        out_norms: nn.ModuleList
        norm: nn.Module

    def __init__(self, in_chans: int, num_classes: int, num_features: int, global_pool: str, layer_order: str) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = num_features
        self.global_pool = global_pool
        self.layer_order = layer_order
        self.output_fmt = "NHWC"
        self.grad_checkpointing = False

    def init_weights(self, needs_reset: bool = True) -> None:
        """Initialise every parameter, e.g. after `to_empty`.

        Args:
            needs_reset: also reset what torch's own initialisation covers; False right after construction.
        """
        if next(self.parameters()).is_meta:
            return  # there is nothing to fill, and on the meta device these operations are slow
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if needs_reset and callable(reset):
                reset()
            if isinstance(module, Block):
                module.reset_layer_scale()
        # In a second pass, so that no container's own reset comes after its children's initialisation.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, NeighborhoodAttention2D | SelfAttention2D) and module.rpb is not None:
                trunc_normal_(module.rpb, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that should not decay: the relative position biases.

        The authors' ImageNet training decayed them: its `no_weight_decay_keywords` was never read. timm's convention
        for such tables, and the authors' detection and segmentation configurations, exempt them.
        """
        return {name for name, _ in self.named_parameters() if name.endswith(".rpb")}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable
        for module in self.modules():
            if isinstance(module, Block):
                module.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The final linear layer, an identity where there are no classes."""
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; 0 classes remove it.

        Args:
            num_classes: the new number of classes.
            global_pool: the new pooling, or None to keep the present one.
        """
        parameter = next(self.parameters())
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        self._create_head(self.head.drop.p, parameter.device, parameter.dtype)

    def _create_head(self, drop_rate: float, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        self.head = ClassifierHead(
            self.num_features,
            self.num_classes,
            pool_type=self.global_pool,
            drop_rate=drop_rate,
            input_fmt=self.output_fmt,
            device=device,
            dtype=dtype,
        ).train(self.training)
        self.head_hidden_size = self.num_features * self.head.global_pool.feat_mult()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map an image `[B, C, H, W]` to normalised features `[B, H', W', num_features]`."""
        features: Tensor = self.norm(self.levels(self.patch_embed(x)))
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool features `[B, H', W', num_features]` and classify them, unless `pre_logits`."""
        output: Tensor = self.head(x, pre_logits=True) if pre_logits else self.head(x)
        return output

    @_typed
    def forward(self, x: Tensor) -> Tensor:
        """Map an image `[B, C, H, W]` to logits `[B, num_classes]`."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of chosen levels, each before the next one's downsampling.

        Args:
            x: image `[B, C, H, W]`.
            indices: levels to give: a sequence, the last n for an int, all for None.
            norm: apply the final norm to the last level's output.
            stop_early: do not run levels beyond the last one asked for.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: leave out the final features.

        Returns:
            The list of outputs, or a pair of final features (NHWC, as `forward_features` gives) and that list.

        Raises:
            ValueError: for an unknown format or an index that does not exist.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt is '{output_fmt}'; it must be 'NCHW' or 'NHWC'.")
        count = len(self.levels)
        wanted = level_indices(indices, count)
        end = max(wanted) + 1 if stop_early else count
        outputs = []
        x = self.patch_embed(x)
        for i, (level, out_norm) in enumerate(zip(self.levels, self.out_norms)):  # noqa: B905 (TorchScript has no strict)
            if i < end:  # TorchScript cannot slice a Sequential
                x = level(x)
                if i in wanted:
                    output = self.norm(x) if norm and i == count - 1 else out_norm(x)
                    outputs.append(output.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else output)
        if intermediates_only:
            return outputs
        return (self.norm(x) if end == count else x), outputs

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the chosen levels do not need.

        Args:
            indices: levels to keep, as in `forward_intermediates`.
            prune_norm: drop the final norm; it goes in any case with the level it belongs to.
            prune_head: drop the classifier; it goes in any case with the level it belongs to.

        Returns:
            The kept indices, none of them negative.
        """
        kept = level_indices(indices, len(self.levels))
        last = max(kept)
        shortened = last < len(self.levels) - 1
        self.levels = self.levels[: last + 1]
        self.out_norms = nn.ModuleList(
            norm if i in kept else nn.Identity() for i, norm in enumerate(self.out_norms) if i <= last
        )
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if shortened:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return kept

    def _rows(self) -> list[list[Block]]:
        """The blocks of each resolution."""
        raise NotImplementedError

    def _reductions(self) -> list[int]:
        """How many pixels of the image, per axis, a token of each resolution stands for."""
        raise NotImplementedError

    @property
    def dilations(self) -> Dilations:
        """The dilation of every block at each resolution, 1 where a block attends to the whole map."""
        return tuple(
            tuple(block.attn.dilation[0] if isinstance(block.attn, NeighborhoodAttention2D) else 1 for block in row)
            for row in self._rows()
        )

    def set_dilations(
        self,
        dilations: str | Sequence[int] | Sequence[Sequence[int]],
        input_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Change every block's dilation; weights fit all dilations (Table 12 of the paper).

        Args:
            dilations: "maximum", the largest that fit the maps of an image of `input_size`; "gradual", growing up to
                those; a task of `dilations.TASKS`, whose published list is taken; one dilation per level, for its
                "dina" blocks; or one sequence per level with one dilation per block.
            input_size: size of the images, an int or height and width, for "maximum" and "gradual". For a task the
                resolution of its training, or None.

        Raises:
            ValueError: if `dilations` is no such thing or does not fit the model, or `input_size` is missing.
        """
        rows = self._rows()
        nested = self._resolve(dilations, input_size)
        smallest = min(dilation for level in nested for dilation in level)
        if smallest < 1:
            raise ValueError(f"dilations has {smallest}; every dilation must be at least 1.")
        for row, level in zip(rows, nested, strict=True):
            for block, dilation in zip(row, level, strict=True):
                if isinstance(block.attn, NeighborhoodAttention2D):
                    block.attn.dilation = (dilation, dilation)

    def _resolve(
        self,
        dilations: str | Sequence[int] | Sequence[Sequence[int]],
        input_size: int | tuple[int, int] | None,
    ) -> Dilations:
        rows = self._rows()
        depths = [len(row) for row in rows]
        if not isinstance(dilations, str):
            return nested_dilations(depths, dilations, self.layer_order)
        if dilations not in ("maximum", "gradual"):
            if dilations not in policies.TASKS:
                known = ", ".join(map(repr, ("maximum", "gradual", *policies.TASKS)))
                raise ValueError(f"dilations is {dilations!r}; it must be one of {known}, or a sequence.")
            if isinstance(input_size, tuple):
                raise ValueError(f"input_size is {input_size}; for {dilations!r} it must be one int or None.")
            return policies.published(depths, dilations, input_size)
        if input_size is None:
            raise ValueError(f"input_size is None; {dilations!r} depends on the size of the images.")
        size = (input_size, input_size) if isinstance(input_size, int) else input_size
        maps = [(-(-size[0] // reduction), -(-size[1] // reduction)) for reduction in self._reductions()]
        kernel_sizes = [_kernel_size(row) for row in rows]
        if dilations == "maximum":
            return policies.maximum(depths, maps, kernel_sizes, self.layer_order)
        return policies.gradual(depths, policies.largest(maps, kernel_sizes), self.layer_order)

    def set_kernel_size(self, kernel_size: int | Sequence[int]) -> None:
        """Change the neighborhoods of a (trained) model, interpolating its biases (see `interpolate_rpb`).

        Args:
            kernel_size: the new side, one for all resolutions or one per resolution. Dilations stay as they are.

        Raises:
            ValueError: if there are not as many kernel sizes as resolutions.
        """
        rows = self._rows()
        sizes = [kernel_size] * len(rows) if isinstance(kernel_size, int) else list(kernel_size)
        if len(sizes) != len(rows):
            raise ValueError(f"kernel_size is {tuple(sizes)}, for {len(sizes)} levels; there are {len(rows)}.")
        for row, size in zip(rows, sizes, strict=True):
            for block in row:
                attn = block.attn
                if isinstance(attn, NeighborhoodAttention2D):
                    if attn.rpb is not None:
                        resized = interpolate_rpb(attn.rpb.detach(), size)
                        attn.rpb = nn.Parameter(resized, requires_grad=attn.rpb.requires_grad)
                    attn.kernel_size = (size, size)


def nested_dilations(
    depths: Sequence[int], dilations: Sequence[int] | Sequence[Sequence[int]], layer_order: str
) -> Dilations:
    """Dilations per block, from dilations per level or per block.

    Raises:
        ValueError: where they do not fit `depths`.
    """
    if all(isinstance(level, int) for level in dilations):
        return policies.alternate(depths, cast(Sequence[int], dilations), layer_order)
    if len(dilations) != len(depths):
        raise ValueError(
            f"dilations is {tuple(dilations)!r}, for {len(dilations)} levels; depths={tuple(depths)} has {len(depths)}."
        )
    nested = tuple(tuple(level) for level in cast(Sequence[Sequence[int]], dilations))
    for i, (kinds, level) in enumerate(zip(policies.block_kinds(depths, layer_order), nested, strict=True)):
        if len(level) != len(kinds):
            raise ValueError(
                f"dilations[{i}] is {level}, for {len(level)} blocks; depths[{i}] is {len(kinds)}: one per block."
            )
        if any(kind == "sa" and dilation != 1 for kind, dilation in zip(kinds, level, strict=True)):
            raise ValueError(f"dilations[{i}] is {level}; self attention, of {layer_order!r}, has none: give 1.")
    return nested


def level_indices(indices: int | list[int] | None, levels: int) -> list[int]:
    """The levels that timm's `indices` argument means, counted from 0."""
    chosen: list[int] = []
    if indices is None:
        chosen = list(range(levels))
    elif isinstance(indices, int):
        if indices > 0:
            chosen = list(range(levels - indices, levels))
    else:
        chosen = [levels + i if i < 0 else i for i in indices]
    if len(chosen) == 0 or min(chosen) < 0 or max(chosen) >= levels:
        raise ValueError(
            f"indices is {indices}; the model has {levels} levels: "
            f"give an int from 1 to {levels}, or a sequence of numbers from {-levels} to {levels - 1}."
        )
    return chosen


def _kernel_size(row: Sequence[Block]) -> int:
    """The side of the neighborhoods of a resolution; 1 where all blocks attend to the whole map."""
    for block in row:
        if isinstance(block.attn, NeighborhoodAttention2D):
            return int(block.attn.kernel_size[0])
    return 1
