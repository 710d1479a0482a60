"""The commands of ``python3 -m jobs``, each with ``main(argv) -> int``."""
