"""Things that move, remembered as things. `entities` is the door."""
