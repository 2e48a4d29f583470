"""Everything about one model on one page, composed of the other studies."""
