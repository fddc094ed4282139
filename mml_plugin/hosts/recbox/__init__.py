"""The recbox host: our losses in stock recbox 0.0.4 models, on recbox's own pipeline.

Example:
    >>> from mml_plugin.hosts import recbox
    >>> recbox.register()      # every MatchingModel now accepts loss: MultiMarginLoss
    >>> recbox.unregister()    # and now it does not any more
"""

from mml_plugin.hosts.recbox import plugging
from mml_plugin.hosts.recbox.plugging import is_registered, register, registered, unregister
from mml_plugin.hosts.recbox.shims import import_recbox as load

__all__ = ["is_registered", "load", "plugging", "register", "registered", "unregister"]
