"""The console: the mesh in a browser, on the services and the access control of the HTTP API."""
