"""One promise a file: what is read from outside and from disks, and what would break it."""
