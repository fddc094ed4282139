"""The RecBole host: MF and SimpleX with any of our losses inside RecBole's own training loop and evaluation.

RecBole 1.2 pins ray below the version that fuxictr needs, so it lives in an environment of its own (docs/recbole.md).

Example:
    >>> from mml_plugin.hosts.recbole import run
    >>> run("SampledMF", "tiny", config_file_list=["mml.yaml"])  # doctest: +SKIP
"""

from mml_plugin.hosts.recbole.plugging import is_registered, register, registered, unregister
from mml_plugin.hosts.recbole.running import run

__all__ = ["is_registered", "register", "registered", "run", "unregister"]
