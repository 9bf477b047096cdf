"""Which trained parameters are decayed. Frozen ones never reach the optimizer."""

from torch import nn

from vglm_train.config.run import Optim


def parameter_groups(module: nn.Module, optim: Optim) -> list[dict]:
    """Two groups for AdamW, decayed and not, in the module's own order; an empty one is left out.

    matrices: decay weights of two or more axes, but neither the query tokens nor the temperature.
    lavis: decay everything but vectors and biases; its temperature was a scalar, so it is decayed, and so are
    the queries (LAVIS, lavis/models/blip2_models/blip2.py, get_optimizer_params).
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (decayed if _is_decayed(name, parameter, optim.decay_rule) else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": optim.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _is_decayed(name: str, parameter: nn.Parameter, rule: str) -> bool:
    special = name.endswith(("query_tokens", "temperature"))
    if special:
        return rule == "lavis"
    return parameter.ndim > 1 and not name.endswith(".bias")
