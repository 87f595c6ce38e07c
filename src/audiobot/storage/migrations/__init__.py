"""Alembic's revisions of the database, from the first public AudioBot on."""
