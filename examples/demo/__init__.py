"""`make demo`: a gateway, three boards and five drivers on real sensor data; one board is killed.

    __main__   the story: start, drive, kill, restart, stop, account    mesh     real processes, none left
    driver     one replayed series, by the public client only           report   what the ledgers say

Everything that is told comes from the daemons: the drivers keep what they were promised, the ledgers what
was kept, and the report compares the two.
"""
