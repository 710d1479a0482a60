"""git and git-annex, as far as the mirror needs them."""
