"""Export: what a manifest says, in the forms that other tools read."""
