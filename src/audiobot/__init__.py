"""VasDom AudioBot: a self-hosted, self-learning voice assistant for service companies."""

__version__ = "0.1.0"
