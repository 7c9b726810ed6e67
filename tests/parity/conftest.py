"""What the PyTorch peers need before they can be imported beside a torch without CUDA."""

import importlib.util

if importlib.util.find_spec("torch"):
    import torch

    # torchvision's wheel registers kernels for operators that a CPU build of torch does not declare.
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
