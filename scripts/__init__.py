"""Set-up, demo, tests, and the rendered world with the training of pllava-tiny."""
