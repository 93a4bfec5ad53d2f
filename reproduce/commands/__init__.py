"""The commands of `python -m reproduce`, one module each; `options` holds what several share."""
