"""``import mml_plugin.hosts.recbox.auto`` registers our losses: the one line for somebody else's script.

It comes too late to stop the network thread that ``import recbox`` starts when recbox is imported before it.
"""

from mml_plugin.hosts.recbox.plugging import register

register()
