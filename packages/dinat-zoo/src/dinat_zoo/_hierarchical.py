"""The hierarchical transformer of NAT, DiNAT and DiNATs.

NAT: https://arxiv.org/abs/2204.07143. DiNAT: https://arxiv.org/abs/2209.15001. Written from the papers; key names and
details follow the checkpoints that the authors published, except that the downsampling layer opens a level here
instead of closing the one before, so that a level's output is the feature map that dense heads want.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from dinat_zoo._base import BaseTransformer, nested_dilations
from dinat_zoo._blocks import Block, NeighborhoodBlock
from dinat_zoo._tokens import ConvDownsample, ConvTokenizer


class Level(nn.Module):
    """One resolution: a downsampling layer, except in the first level, and a row of blocks.

    Args:
        dim: channels of the blocks.
        downsample: the layer that makes them of half as many and halves the sides; an identity in the first level.
        dilations: the dilation of each block; its length is the depth.
        drop_path: the stochastic depth rate of each block.
        device: where the parameters are created.
        dtype: dtype of the parameters.
        **block: the other arguments of `NeighborhoodBlock`.
    """

    def __init__(
        self,
        dim: int,
        downsample: nn.Module,
        dilations: Sequence[int],
        drop_path: Sequence[float],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **block: Any,
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(
            *(
                NeighborhoodBlock(dim, dilation=dilation, drop_path=rate, device=device, dtype=dtype, **block)
                for dilation, rate in zip(dilations, drop_path, strict=True)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, dim or dim / 2]` to this level's output `[B, H', W', dim]`."""
        output: Tensor = self.blocks(self.downsample(x))
        return output


class NeighborhoodTransformer(BaseTransformer):
    """NAT, DiNAT and DiNATs: a tokenizer and levels of (dilated) neighborhood attention.

    Args:
        in_chans: channels of the image.
        num_classes: classes; 0 for none, the model then gives pooled features.
        global_pool: timm's name of the pooling before the classifier; "" for none.
        embed_dim: channels of the first level; they double with each level.
        depths: blocks of each level.
        num_heads: attention heads of each level.
        kernel_size: side of the neighborhood, one for all levels or one per level.
        dilations: one dilation per level, for its "dina" blocks, or one sequence per level with one dilation per
            block; None for 1 everywhere, which is NAT.
        layer_order: the order of blocks in a level, "na" with dilation 1 and "dina" with the level's: "na-dina" as
            published, "dina-na", "dina", "na" (Tables 10 and VII).
        mlp_ratio: width of the MLP's hidden layers in units of the level's channels.
        qkv_bias: whether query, key and value projections have a bias.
        layer_scale: initial value of the learnt scale of each branch, or None for no such scale.
        downsampling: "conv" for overlapping convolutions (NAT, DiNAT), "patched" for Swin's patches of 4x4 pixels
            and merging of 2x2 tokens (DiNATs).
        stem_strides: strides of the convolutional tokenizer's two convolutions.
        out_norms: whether the feature maps of `forward_intermediates` and `features_only` are normalised, by a
            LayerNorm per level, as dense heads have it; logits do not pass these.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout after attention projections and in MLPs.
        attn_drop_rate: dropout of attention weights; above 0, training is much slower.
        drop_path_rate: stochastic depth rate of the last block; those before rise linearly from 0.
        device: where the parameters are created.
        dtype: dtype of the parameters.

    Raises:
        ValueError: where per-level arguments do not fit `depths`, a level's channels its heads, or a choice is unknown.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 64,
        depths: Sequence[int] = (3, 4, 6, 5),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        kernel_size: int | Sequence[int] = 7,
        dilations: Sequence[int] | Sequence[Sequence[int]] | None = None,
        layer_order: str = "na-dina",
        mlp_ratio: float = 3.0,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        downsampling: str = "conv",
        stem_strides: tuple[int, int] = (2, 2),
        out_norms: bool = False,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        dims = [embed_dim * 2**i for i in range(len(depths))]
        super().__init__(in_chans, num_classes, dims[-1], global_pool, layer_order)
        kernel_sizes = [kernel_size] * len(depths) if isinstance(kernel_size, int) else list(kernel_size)
        _check_levels(depths, dims, num_heads, kernel_sizes)
        if "sa" in layer_order.split("-"):
            raise ValueError(f"layer_order is {layer_order!r}; 'sa' needs maps of one size, an isotropic model's.")
        nested = nested_dilations(depths, [1] * len(depths) if dilations is None else dilations, layer_order)

        self.embed_dim = embed_dim
        self.patch_embed, stride = _tokenizer(downsampling, in_chans, embed_dim, stem_strides, device, dtype)
        self.feature_info = [
            {"num_chs": dim, "reduction": stride * 2**i, "module": f"levels.{i}"} for i, dim in enumerate(dims)
        ]
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        downsample = ConvDownsample if downsampling == "conv" else PatchMerging
        self.levels = nn.Sequential(
            *(
                Level(
                    dims[i],
                    nn.Identity() if i == 0 else downsample(dims[i - 1], device=device, dtype=dtype),
                    dilations=nested[i],
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
        self.out_norms = nn.ModuleList(
            nn.LayerNorm(dim, device=device, dtype=dtype) if out_norms else nn.Identity() for dim in dims
        )
        self.norm = nn.LayerNorm(self.num_features, device=device, dtype=dtype)
        self._create_head(drop_rate, device, dtype)
        self.init_weights(needs_reset=False)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that group the parameters by depth, for layer-wise learning rates."""
        if coarse:
            blocks = [(r"^(?:levels|out_norms)\.(\d+)", None), (r"^norm", (99999,))]
            return {"stem": r"^patch_embed", "blocks": blocks}
        blocks = [
            (r"^levels\.(\d+)\.downsample", (0,)),
            (r"^levels\.(\d+)\.blocks\.(\d+)", None),
            (r"^(?:norm|out_norms)", (99999,)),
        ]
        return {"stem": r"^patch_embed", "blocks": blocks}

    def _rows(self) -> list[list[Block]]:
        return [[block for block in level.modules() if isinstance(block, Block)] for level in self.levels]

    def _reductions(self) -> list[int]:
        return [info["reduction"] for info in self.feature_info[: len(self.levels)]]


def _tokenizer(
    downsampling: str,
    in_chans: int,
    dim: int,
    stem_strides: tuple[int, int],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> tuple[nn.Module, int]:
    """The tokenizer and its stride."""
    if downsampling == "conv":
        stride = stem_strides[0] * stem_strides[1]
        return ConvTokenizer(in_chans, dim, stem_strides, device=device, dtype=dtype), stride
    if downsampling == "patched":
        return patch_embed(4, in_chans, dim, device, dtype), 4
    raise ValueError(f"downsampling is {downsampling!r}; it must be 'conv' or 'patched'.")


def patch_embed(
    patch_size: int, in_chans: int, dim: int, device: torch.device | str | None, dtype: torch.dtype | None
) -> PatchEmbed:
    """timm's patches as NHWC tokens, normed, of images of any size: these are padded at the right and the bottom."""
    return PatchEmbed(
        img_size=None,
        patch_size=patch_size,
        in_chans=in_chans,
        embed_dim=dim,
        norm_layer=nn.LayerNorm,
        output_fmt="NHWC",
        strict_img_size=False,
        dynamic_img_pad=True,
        device=device,
        dtype=dtype,
    )


def _check_levels(
    depths: Sequence[int], dims: Sequence[int], num_heads: Sequence[int], kernel_sizes: Sequence[int]
) -> None:
    for name, value in (("num_heads", num_heads), ("kernel_size", kernel_sizes)):
        if len(value) != len(depths):
            raise ValueError(
                f"{name} is {tuple(value)!r}, for {len(value)} levels; depths={tuple(depths)} has {len(depths)}."
            )
    for i, (dim, heads) in enumerate(zip(dims, num_heads, strict=True)):
        if dim % heads:
            raise ValueError(f"num_heads[{i}] is {heads}, which does not divide level {i}'s {dim} channels.")
