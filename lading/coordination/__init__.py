"""How processes of one or many machines keep out of each other's way, by files alone."""
