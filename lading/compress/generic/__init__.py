"""Any files: copied as they are, or into one zip."""
