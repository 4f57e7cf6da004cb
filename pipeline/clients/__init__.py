"""The clients' side: workers that simulate clients, one after the other."""
