"""Side-by-side timings with peers, on problems that everyone gets and by a judge that belongs to nobody."""
