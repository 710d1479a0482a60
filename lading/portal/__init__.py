"""The portal: submit job lists, follow them, from a browser or by REST."""
