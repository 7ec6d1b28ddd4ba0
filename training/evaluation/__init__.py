"""How good a dictionary is: on rows, inside the model, on labelled text. Start at `run`."""
