"""The command ``lading``: one module a subcommand, and the only place that knows several stages."""
