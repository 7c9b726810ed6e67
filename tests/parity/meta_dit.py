"""The diffusion transformer in PyTorch with the names of its authors' weights, written from the paper (arXiv 2212.09748).

Frequencies of the time are 10000^(-i / 128), every norm has eps 1e-6, and positions are sines and cosines, columns first.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def positions(side: int, width: int) -> torch.Tensor:
    omega = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    rows, columns = np.divmod(np.arange(side * side), side)
    parts = [part(place[:, None] * omega) for place in (columns, rows) for part in (np.sin, np.cos)]
    return torch.tensor(np.concatenate(parts, axis=1), dtype=torch.float32)[None]


def modulated(x, shift, scale):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def attended(self, x):
        n, tokens, width = x.shape
        q, k, v = self.attn["qkv"](x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.attn["proj"](y.transpose(1, 2).reshape(n, tokens, width))

    def forward(self, x, c):
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate_1[:, None] * self.attended(modulated(x, shift_1, scale_1))
        inner = F.gelu(self.mlp["fc1"](modulated(x, shift_2, scale_2)), approximate="tanh")
        return x + gate_2[:, None] * self.mlp["fc2"](inner)


class MetaDiT(nn.Module):
    """x [n, 4, side, side], t [n], y [n] -> eps and a variance [n, 8, side, side]."""

    def __init__(self, *, side: int, patch: int, width: int, layers: int, heads: int, classes: int):
        super().__init__()
        self.patch = patch
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(4, width, patch, stride=patch)})
        self.t_embedder = nn.ModuleDict(
            {"mlp": nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))}
        )
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(classes + 1, width)})
        self.pos_embed = nn.Parameter(positions(side // patch, width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        adaln = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final_layer = nn.ModuleDict({"adaLN_modulation": adaln, "linear": nn.Linear(width, patch * patch * 8)})

    def forward(self, x, t, y):
        n, side, p = len(x), x.shape[-1] // self.patch, self.patch
        x = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        angles = t[:, None].float() * torch.exp(-math.log(10000.0) * torch.arange(128) / 128)[None]
        c = self.t_embedder["mlp"](torch.cat([angles.cos(), angles.sin()], dim=1)) + self.y_embedder["embedding_table"](
            y
        )
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.final_layer["adaLN_modulation"](c).chunk(2, dim=1)
        x = self.final_layer["linear"](modulated(x, shift, scale)).reshape(n, side, side, p, p, 8)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(n, 8, side * p, side * p)
