"""The embedded demo: drawn scenes described in English and Chinese, and the whole of stage one on them."""

import os

# Before torch is imported, and for the commands that the demo starts: threads that wait for each other by spinning take
# several times the processor time as soon as anything else runs on the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
