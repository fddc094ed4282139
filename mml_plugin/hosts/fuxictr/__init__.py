"""The FuxiCTR host: our losses in a FuxiCTR ``BaseModel`` whose ``y_pred`` is ``[B, 1+N]``.

FuxiCTR 2.3 finds a loss by name only, cannot take a callable, never hands the loss its margins, calls it with
``reduction='mean'`` and labels ``[B, 1]``. After :func:`register`, ``loss: MultiMarginLoss`` works all the same;
FuxiCTR's own loss names and unknown ones reach FuxiCTR untouched.
"""

from mml_plugin.hosts.fuxictr.plugging import is_registered, register, registered, unregister

__all__ = ["is_registered", "register", "registered", "unregister"]
