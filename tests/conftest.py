"""Property tests draw the same examples at every run of CI; elsewhere they draw new ones and so find new faults."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
