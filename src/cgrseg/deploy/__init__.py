"""To other runtimes and other machines: export, proof, quantisation."""
