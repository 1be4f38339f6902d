"""``python -m ckpt_tools`` is ``ckpt``."""

from ._cli import main

main()
