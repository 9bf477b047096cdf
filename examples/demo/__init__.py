"""The embedded demo: drawn scenes described in English and Chinese, and both stages on them."""

import os

# Before torch is imported, and for the commands that the demo starts: threads that wait for each other by spinning take
# several times the processor time as soon as anything else runs on the same cores. A short spin keeps their full speed
# on idle ones: 110 samples/s against 82 without.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
