"""Moving sealed parcels: links to a broker, coalescing, acknowledgement, re-sending."""
