"""What all commands share as processes: arguments, errors and exit codes, signals, supervision, limited logs."""
