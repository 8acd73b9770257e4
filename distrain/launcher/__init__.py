"""On the machine where the user types: reaches hosts, decides, records and shows."""
