"""Values that merge without a centre: dots and vectors, registers, sets, counters."""
