"""What to run: pure values. No process is started here and no socket opened."""
