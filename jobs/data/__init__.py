"""What other projects say of Kubernetes, as data; see README.md here."""
