"""``eval.html``: an evaluation as one page that needs nothing else. Start at `page`."""
