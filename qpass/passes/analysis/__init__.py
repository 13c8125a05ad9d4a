"""What passes find out about a graph before they rewrite it."""
