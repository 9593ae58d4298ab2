"""What a run has shown: promises beside ledgers, figures, expectations."""
