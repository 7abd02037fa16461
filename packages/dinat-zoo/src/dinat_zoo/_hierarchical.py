"""The hierarchical transformer of NAT and DiNAT, with timm's interface.

NAT: https://arxiv.org/abs/2204.07143. DiNAT: https://arxiv.org/abs/2209.15001. Written from the papers; key names and
details follow the checkpoints that the authors published, except that the downsampling layer opens a level here
instead of closing the one before, so that a level's output is the feature map that dense heads want.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import ClassifierHead, trunc_normal_
from timm.models import checkpoint_seq
from torch import Tensor, nn

from dinat_zoo._blocks import ConvDownsample, ConvTokenizer, NeighborhoodBlock
from natten_core import NeighborhoodAttention2D


class Level(nn.Module):
    """One resolution: a downsampling layer, except in the first level, and a row of blocks.

    Args:
        dim: channels of the blocks; the downsampling layer takes half as many.
        downsample: whether the level starts with a downsampling layer.
        dilations: the dilation of each block; its length is the depth.
        drop_path: the stochastic depth rate of each block.
        device: where the parameters are created.
        dtype: dtype of the parameters.
        **block: the other arguments of `NeighborhoodBlock`.
    """

    def __init__(
        self,
        dim: int,
        downsample: bool,
        dilations: Sequence[int],
        drop_path: Sequence[float],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **block: Any,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = ConvDownsample(dim // 2, device=device, dtype=dtype) if downsample else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                NeighborhoodBlock(dim, dilation=dilation, drop_path=rate, device=device, dtype=dtype, **block)
                for dilation, rate in zip(dilations, drop_path, strict=True)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, dim or dim / 2]` to this level's output `[B, H', W', dim]`."""
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            output: Tensor = checkpoint_seq(self.blocks, x)
        else:
            output = self.blocks(x)
        return output


class NeighborhoodTransformer(nn.Module):
    """NAT and DiNAT: a convolutional tokenizer and levels of (dilated) neighborhood attention.

    Args:
        in_chans: channels of the image.
        num_classes: classes; 0 for none, the model then gives pooled features.
        global_pool: timm's name of the pooling before the classifier; "" for none.
        embed_dim: channels of the first level; they double with each level.
        depths: blocks of each level.
        num_heads: attention heads of each level.
        kernel_size: side of the neighborhood, one for all levels or one per level.
        dilations: the dilation of every block, one sequence per level; None for 1 everywhere, which is NAT.
        mlp_ratio: width of the MLP's hidden layers in units of the level's channels.
        qkv_bias: whether query, key and value projections have a bias.
        layer_scale: initial value of the learnt scale of each branch, or None for no such scale.
        stem_strides: strides of the tokenizer's two convolutions.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout after attention projections and in MLPs.
        attn_drop_rate: dropout of attention weights; above 0, training is much slower.
        drop_path_rate: stochastic depth rate of the last block; those before rise linearly from 0.
        device: where the parameters are created.
        dtype: dtype of the parameters.

    Raises:
        ValueError: where per-level arguments do not fit `depths` or a level's channels its heads.
    """

    if TYPE_CHECKING:  # TorchScript cannot read it
        pretrained_cfg: dict[str, Any]  # set by timm's builder

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 64,
        depths: Sequence[int] = (3, 4, 6, 5),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        kernel_size: int | Sequence[int] = 7,
        dilations: Sequence[Sequence[int]] | None = None,
        mlp_ratio: float = 3.0,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        stem_strides: tuple[int, int] = (2, 2),
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dims = [embed_dim * 2**i for i in range(len(depths))]
        kernel_sizes = [kernel_size] * len(depths) if isinstance(kernel_size, int) else list(kernel_size)
        if dilations is None:
            dilations = [(1,) * depth for depth in depths]
        _check_levels(depths, dims, num_heads, kernel_sizes, dilations)

        self.in_chans = in_chans
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.output_fmt = "NHWC"
        self.embed_dim = embed_dim
        self.num_features = dims[-1]
        stride = stem_strides[0] * stem_strides[1]
        self.feature_info = [
            {"num_chs": dim, "reduction": stride * 2**i, "module": f"levels.{i}"} for i, dim in enumerate(dims)
        ]

        self.patch_embed = ConvTokenizer(in_chans, dims[0], stem_strides, device=device, dtype=dtype)
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.levels = nn.Sequential(
            *(
                Level(
                    dims[i],
                    downsample=i > 0,
                    dilations=dilations[i],
                    drop_path=[next(rates) for _ in range(depth)],
                    num_heads=num_heads[i],
                    kernel_size=kernel_sizes[i],
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    layer_scale=layer_scale,
                    proj_drop=proj_drop_rate,
                    attn_drop=attn_drop_rate,
                    device=device,
                    dtype=dtype,
                )
                for i, depth in enumerate(depths)
            )
        )
        self.norm: nn.Module = nn.LayerNorm(self.num_features, device=device, dtype=dtype)
        self._create_head(drop_rate, device, dtype)
        self.init_weights(needs_reset=False)

    def init_weights(self, needs_reset: bool = True) -> None:
        """Initialise every parameter, e.g. after `to_empty`.

        Args:
            needs_reset: also reset what torch's own initialisation covers; False right after construction.
        """
        if self.patch_embed.norm.weight.is_meta:
            return  # there is nothing to fill, and on the meta device these operations are slow
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if needs_reset and callable(reset):
                reset()
            if isinstance(module, NeighborhoodBlock):
                module.reset_layer_scale()
        # In a second pass, so that no container's own reset comes after its children's initialisation.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, NeighborhoodAttention2D) and module.rpb is not None:
                trunc_normal_(module.rpb, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that should not decay: the relative position biases.

        The authors' ImageNet training decayed them: its `no_weight_decay_keywords` was never read. timm's convention
        for such tables, and the authors' detection and segmentation configurations, exempt them.
        """
        return {name for name, _ in self.named_parameters() if name.endswith(".rpb")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that group the parameters by depth, for layer-wise learning rates."""
        if coarse:
            return {"stem": r"^patch_embed", "blocks": [(r"^levels\.(\d+)", None), (r"^norm", (99999,))]}
        blocks = [
            (r"^levels\.(\d+)\.downsample", (0,)),
            (r"^levels\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^patch_embed", "blocks": blocks}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""
        for level in self.levels:
            assert isinstance(level, Level)
            level.grad_checkpointing = enable

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

    def forward(self, x: Tensor) -> Tensor:
        """Map an image `[B, C, H, W]` to logits `[B, num_classes]`."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The outputs of chosen levels, before the next one's downsampling.

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
            raise ValueError(f"output_fmt is {output_fmt!r}; it must be 'NCHW' or 'NHWC'.")
        wanted = _level_indices(indices, len(self.levels))
        last = len(self.levels) - 1
        levels = self.levels[: max(wanted) + 1] if stop_early else self.levels
        outputs = []
        x = self.patch_embed(x)
        for i, level in enumerate(levels):
            x = level(x)
            if i in wanted:
                output = self.norm(x) if norm and i == last else x
                outputs.append(output.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else output)
        if intermediates_only:
            return outputs
        return (self.norm(x) if len(levels) == len(self.levels) else x), outputs

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the chosen levels do not need.

        Args:
            indices: levels to keep, as in `forward_intermediates`.
            prune_norm: drop the final norm; it goes in any case with the level it belongs to.
            prune_head: drop the classifier; it goes in any case with the level it belongs to.

        Returns:
            The kept indices, none of them negative.
        """
        kept = _level_indices(indices, len(self.levels))
        last = max(kept)
        shortened = last < len(self.levels) - 1
        self.levels = self.levels[: last + 1]
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if shortened:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return kept


def _level_indices(indices: int | Sequence[int] | None, levels: int) -> list[int]:
    """The levels that timm's `indices` argument means, counted from 0."""
    if indices is None:
        chosen = list(range(levels))
    elif isinstance(indices, int):
        chosen = list(range(levels - indices, levels)) if indices > 0 else []
    else:
        chosen = [levels + i if i < 0 else i for i in indices]
    if not chosen or min(chosen) < 0 or max(chosen) >= levels:
        raise ValueError(
            f"indices is {indices!r}; the model has {levels} levels: "
            f"give an int from 1 to {levels}, or a sequence of numbers from {-levels} to {levels - 1}."
        )
    return chosen


def _check_levels(
    depths: Sequence[int],
    dims: Sequence[int],
    num_heads: Sequence[int],
    kernel_sizes: Sequence[int],
    dilations: Sequence[Sequence[int]],
) -> None:
    for name, value in (("num_heads", num_heads), ("kernel_size", kernel_sizes), ("dilations", dilations)):
        if len(value) != len(depths):
            raise ValueError(
                f"{name} is {tuple(value)!r}, for {len(value)} levels; depths={tuple(depths)} has {len(depths)}."
            )
    for i, (depth, dim, heads, level) in enumerate(zip(depths, dims, num_heads, dilations, strict=True)):
        if len(level) != depth:
            raise ValueError(
                f"dilations[{i}] is {tuple(level)}, for {len(level)} blocks; depths[{i}] is {depth}: one per block."
            )
        if dim % heads:
            raise ValueError(f"num_heads[{i}] is {heads}, which does not divide level {i}'s {dim} channels.")
