"""Clients of the captioning server, or of any service with its protocol. Import no framework."""
