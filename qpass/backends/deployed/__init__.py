"""The script that runs a deployed file without qpass."""
