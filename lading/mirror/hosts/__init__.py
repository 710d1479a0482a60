"""Hosts of git repositories that have an API: GitHub, Forgejo and Gitea, GIN and other Gogs."""
