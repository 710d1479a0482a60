"""Manifests of buckets that somebody else filled: what their listings and lists say, with what each rests on."""
