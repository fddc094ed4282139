from .MF import MF
