"""Writes gptq_zeros.safetensors: weights of 2, 3, 4 and 8 bits that GPTQModel packs as version 1, some of whose zero points
are 0, and the values that it makes of them. Needs gptqmodel (7.7 wrote the file), torch and safetensors."""

import torch
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.quantization import QuantizeConfig
from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
from safetensors.torch import save_file

ROWS, COLS, GROUP = 32, 64, 32
torch.manual_seed(3)
tensors = {}
for bits in (2, 3, 4, 8):
    linear = torch.nn.Linear(COLS, ROWS, bias=False)
    weight = linear.weight.data
    weight[::3] = weight[::3].abs()
    most = 2**bits - 1
    groups = weight.reshape(ROWS, COLS // GROUP, GROUP)
    low, high = groups.amin(2).clamp(max=0), groups.amax(2)
    scales = ((high - low) / most).half().float()
    zeros = (-low / scales).round().clamp(0, most)
    assert (zeros == 0).any()
    index = (torch.arange(COLS) // GROUP).to(torch.int32)
    packed = TorchLinear(
        bits=bits, group_size=GROUP, sym=False, desc_act=False, in_features=COLS, out_features=ROWS, bias=False
    )
    packed.pack(linear, scales.T.contiguous().T, zeros, index)
    tensors[f"b{bits}.truth"] = packed.dequantize_weight().T.half().contiguous()
    config = QuantizeConfig(bits=bits, group_size=GROUP, sym=False, desc_act=False)
    convert_gptq_v2_to_v1_format_module(packed, config)
    for name in ("qweight", "qzeros", "scales", "g_idx"):
        tensors[f"b{bits}.{name}"] = packed.state_dict()[name].clone().contiguous()
save_file(tensors, "gptq_zeros.safetensors")
