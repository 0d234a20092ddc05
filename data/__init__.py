"""What goes in: the challenge layout reader and the embedded sample world."""
