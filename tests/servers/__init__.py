"""Real servers for tests, in folders of their own and stopped afterwards; tests skip where they cannot be had."""
