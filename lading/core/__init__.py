"""What every part of the program may use, and what uses no other part."""
