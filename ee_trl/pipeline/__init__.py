"""The whole method as stages: each is done once, resumed where it was cut off, and redone when its inputs change."""
