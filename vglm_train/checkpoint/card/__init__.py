"""A model card in English and Chinese, of what a bundle and the files beside it say."""
