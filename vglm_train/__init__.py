"""Train BLIP-2 style Q-Formers between a frozen image encoder and a frozen language model."""
