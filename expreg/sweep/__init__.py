"""From cells to rows: devices, the engine with its lanes, the store, progress."""
