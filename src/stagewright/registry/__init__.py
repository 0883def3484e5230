"""The OCI distribution protocol: names, credentials, mirrors, pull, push."""
