"""The sign-off of a planted release: what it finds, how ranks share it, and later stages that hash nothing."""
