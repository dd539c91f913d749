"""The beginning of a script for which this package is not installed."""

HIDE_PACKAGE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_ddpm":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
"""
