"""Where dialogues live: the journal (the truth), its index, the memory in front, one adapter."""
