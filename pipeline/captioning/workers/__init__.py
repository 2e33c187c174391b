"""How ranks work together: launch, heartbeats, leases of rows, collectives and the gather of results."""
