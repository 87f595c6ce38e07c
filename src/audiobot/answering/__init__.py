"""How a question finds its answer: vectors, the company's knowledge, past dialogues, a model."""
