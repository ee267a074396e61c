"""What every experiment needs: config, engine, store, statistics, page. Knows `Experiment`, and no kind of it."""
