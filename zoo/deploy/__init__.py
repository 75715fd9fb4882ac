"""A network in a folder that runs alone: made for one engine, measured, with the script that runs it."""
