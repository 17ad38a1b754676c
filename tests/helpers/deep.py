"""The switch for the longest form of a test: ``HYPOTHESIS_PROFILE=deep pytest``."""

import os

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
