"""Theory, speed and a training run, and a page that shows them."""

from sim.demo.command import demo

__all__ = ["demo"]
