"""Small pictures beside each compressed output, and what a session's page shows of them."""
