"""The isotropic transformers: one resolution, with neighborhood attention, self attention or both (Tables 5 and 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import nn

from dinat_zoo._attention import SelfAttention2D
from dinat_zoo._base import BaseTransformer, nested_dilations
from dinat_zoo._blocks import Block, NeighborhoodBlock, SelfAttentionBlock
from dinat_zoo._hierarchical import patch_embed
from dinat_zoo.dilations import block_kinds


class IsotropicTransformer(BaseTransformer):
    """Patches of 16x16 pixels and blocks of (dilated) neighborhood or self attention, all with positional bias.

    Without self attention it takes images of any size, padded to a multiple of 16 at the right and the bottom. The bias
    of self attention is for maps of one size, which `img_size` and `set_input_size` decide.

    Args:
        in_chans: channels of the image.
        num_classes: classes; 0 for none, the model then gives pooled features.
        global_pool: timm's name of the pooling before the classifier; "" for none.
        img_size: size of the images, an int or height and width; matters to self attention alone.
        patch_size: side of a patch.
        embed_dim: channels.
        depth: blocks.
        num_heads: attention heads.
        kernel_size: side of the neighborhood.
        dilations: as in `NeighborhoodTransformer` for one level: `(2,)` for the "dina" blocks, or one sequence with a
            dilation per block; None for 1 everywhere.
        layer_order: the repeating order of blocks, joined by "-": "na" with dilation 1, "dina" dilated, "sa" with self
            attention; "na-dina" is DiNAT, "sa" the ViT with bias, "na-sa" one of Table 6's hybrids.
        mlp_ratio: width of the MLP's hidden layers in units of `embed_dim`.
        qkv_bias: whether query, key and value projections have a bias.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout after attention projections and in MLPs.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth rate of the last block; those before rise linearly from 0.
        device: where the parameters are created.
        dtype: dtype of the parameters.

    Raises:
        ValueError: where the dilations do not fit the depth or the channels the heads, or an attention is unknown.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 12,
        kernel_size: int = 7,
        dilations: Sequence[int] | Sequence[Sequence[int]] | None = None,
        layer_order: str = "na-dina",
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_chans, num_classes, embed_dim, global_pool, layer_order)
        if embed_dim % num_heads:
            raise ValueError(f"num_heads is {num_heads}, which does not divide {embed_dim} channels.")
        [kinds] = block_kinds((depth,), layer_order)
        [row] = nested_dilations((depth,), (1,) if dilations is None else dilations, layer_order)

        self.patch_size = patch_size
        self.feature_info = [
            {"num_chs": embed_dim, "reduction": patch_size, "module": f"levels.{i}"} for i in range(depth)
        ]
        self.patch_embed = patch_embed(patch_size, in_chans, embed_dim, device, dtype)
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        blocks: list[Block] = []
        for kind, dilation, rate in zip(kinds, row, rates, strict=True):
            common: dict[str, Any] = {
                "mlp_ratio": mlp_ratio,
                "qkv_bias": qkv_bias,
                "proj_drop": proj_drop_rate,
                "attn_drop": attn_drop_rate,
                "drop_path": rate,
                "device": device,
                "dtype": dtype,
            }
            if kind == "sa":
                blocks.append(SelfAttentionBlock(embed_dim, num_heads, self._map_size(img_size), **common))
            else:
                blocks.append(NeighborhoodBlock(embed_dim, num_heads, kernel_size, dilation, **common))
        self.levels = nn.Sequential(*blocks)
        self.out_norms = nn.ModuleList(nn.Identity() for _ in blocks)
        self.norm = nn.LayerNorm(embed_dim, device=device, dtype=dtype)
        self._create_head(drop_rate, device, dtype)
        self.init_weights(needs_reset=False)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Take images of another size; the bias tables of self attention are interpolated to it."""
        for module in self.modules():
            if isinstance(module, SelfAttention2D):
                module.set_map_size(self._map_size(img_size))

    def _map_size(self, img_size: int | tuple[int, int]) -> tuple[int, int]:
        height, width = to_2tuple(img_size)
        return -(-height // self.patch_size), -(-width // self.patch_size)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that group the parameters by depth, for layer-wise learning rates."""
        return {"stem": r"^patch_embed", "blocks": [(r"^levels\.(\d+)", None), (r"^norm", (99999,))]}

    def _rows(self) -> list[list[Block]]:
        return [[block for block in self.levels if isinstance(block, Block)]]

    def _reductions(self) -> list[int]:
        return [self.patch_size]
