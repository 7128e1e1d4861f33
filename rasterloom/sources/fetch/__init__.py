"""Images over HTTP: clients, hosts, robots.txt, opt-out."""
