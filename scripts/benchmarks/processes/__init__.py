"""Fits by several processes, and of adapters: what a projection after each step costs, sends and holds."""
