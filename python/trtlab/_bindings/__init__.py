"""Compiled modules, one a layer. Use the trtlab package."""
