"""Set-up, demo, tests and measurements; the synthetic world of moving shapes, and the training of pllava-tiny."""
