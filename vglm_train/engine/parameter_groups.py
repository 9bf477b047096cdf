"""Which trained parameters are decayed, and how fast each trains. Frozen ones never reach the optimizer."""

from collections.abc import Mapping

from torch import nn

from vglm_train.config.run import Optim


def parameter_groups(module: nn.Module, optim: Optim, scales: Mapping[str, float] | None = None) -> list[dict]:
    """Groups for AdamW, decayed and not for each learning rate; in the module's own order, decayed ones first.

    scales: name -> what the learning rate is multiplied by; 1 where none is given. A group's is its `scale`.

    matrices: decay weights of two or more axes, but neither the query tokens nor the temperature.
    lavis: decay everything but vectors and biases; its temperature was a scalar, so it is decayed, and so are
    the queries (LAVIS, lavis/models/blip2_models/blip2.py, get_optimizer_params).
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            key = (scales or {}).get(name, 1.0), _is_decayed(name, parameter, optim.decay_rule)
            groups.setdefault(key, []).append(parameter)
    order = sorted(groups, key=lambda key: not key[1])
    return [
        {"params": groups[scale, decayed], "weight_decay": optim.weight_decay if decayed else 0.0, "scale": scale}
        for scale, decayed in order
    ]


def _is_decayed(name: str, parameter: nn.Parameter, rule: str) -> bool:
    special = name.endswith(("query_tokens", "temperature"))
    if special:
        return rule == "lavis"
    return parameter.ndim > 1 and not name.endswith(".bias")
