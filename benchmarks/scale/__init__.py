"""What each stage needs at ten million to a billion files, from costs measured on small trees."""
