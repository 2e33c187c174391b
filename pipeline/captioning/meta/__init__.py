"""The meta table, what is still to be captioned, and the journals of finished rows."""
