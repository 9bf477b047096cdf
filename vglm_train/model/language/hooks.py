"""Whether a module is just what its class computes."""

from torch import nn

# hooks see a module's own input and output, and adapters are hooks
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def is_wrapped(module: nn.Module) -> bool:
    """Whether something looks at what the module computes, or changes it."""
    own = vars(module)
    return "forward" in own or any(own[name] for name in HOOKS)
