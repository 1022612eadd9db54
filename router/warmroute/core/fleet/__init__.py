"""These modules keep the replicas and what is under way on each; `fleet` alone gives a request to one of them."""
