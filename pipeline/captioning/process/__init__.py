"""What every command of ours is as a process: arguments, errors and exit codes, signals, supervision, limited logs."""
