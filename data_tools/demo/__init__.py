"""The embedded demo: drawn scenes described in English and Chinese, and the whole of stage one on them."""
