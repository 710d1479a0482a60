"""How fast the pages of a large release open."""
