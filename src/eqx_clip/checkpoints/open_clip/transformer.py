"""OpenCLIP's names of the tensors of a transformer's block."""

from ..rows.row import renamed


BLOCK = renamed(
    {
        "ln_1.weight": "ln_1.weight",
        "ln_1.bias": "ln_1.bias",
        "attn.qkv.weight": "attn.in_proj_weight",
        "attn.qkv.bias": "attn.in_proj_bias",
        "attn.out.weight": "attn.out_proj.weight",
        "attn.out.bias": "attn.out_proj.bias",
        "ln_2.weight": "ln_2.weight",
        "ln_2.bias": "ln_2.bias",
        "mlp.up.weight": "mlp.c_fc.weight",
        "mlp.up.bias": "mlp.c_fc.bias",
        "mlp.down.weight": "mlp.c_proj.weight",
        "mlp.down.bias": "mlp.c_proj.bias",
    }
)
