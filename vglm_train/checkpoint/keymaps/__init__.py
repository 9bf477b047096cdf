"""Names of published weights and ours, as tables read both ways: keymap.py applies them, the others are the tables."""
