"""Task retrieval: recall of a stage-one model by ITC, re-ranked by ITM, and ITM accuracy."""
