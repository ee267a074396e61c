"""From cells to rows: devices, programs with their lanes, progress, estimates."""
