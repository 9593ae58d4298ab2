"""Who is in the mesh, and who of them is there."""
